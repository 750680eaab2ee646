import { Attempts } from "./attempts.js";
import { causes } from "./causes.js";
import { copyable, h, icon, pill, redraw, setShown, setText } from "./dom.js";
import { stringify } from "./exact.js";
import { ago, clock, duration, elapsed, full, plural, precise, secondsBetween, shortId, zoned } from "./format.js";
import { LogTools } from "./log_tools.js";
import { now } from "./now.js";
import { reasonText } from "./rows.js";
import { blocksIn, folded, Stacks, stackOf } from "./stacks.js";
import { taskActions, taskLink } from "./task_actions.js";
import { People } from "./people.js";
import { legend, timeline } from "./timeline.js";
import { Trace } from "./trace.js";
import { LIVE } from "./vocabulary.js";

const NEAR_END = 40;
const FOLLOW = 1000;
const ROWS_SETTLE = 300;
/** How often a log is asked for after the end of its task. */
const LATE_READS = 5;
/** How long the page waits for the trace, in milliseconds: a card that comes later moves what is below it. */
const TRACE_PATIENCE = 300;
const WIDE = new Set(["Task id", "Trace id"]);

/** One task: its data, its timeline, its log, its error. */
export class TaskView {
  constructor(page, root) {
    this.page = page;
    this.id = page.params.get("id") ?? "";
    this.seen = new Map();
    this.reads = 0;
    this.head = h("div");
    this.facts = h("dl", { class: "facts" });
    this.progress = h("section", { class: "card progress", hidden: true });
    this.bars = h("div");
    this.events = h("ol", { class: "events" });
    this.blocked = h("button", { class: "badge rising", type: "button", text: "blocked the event loop", hidden: true, on: { click: () => this.stacks.element.scrollIntoView({ block: "center" }) } });
    this.error = h("section", { class: "card error", hidden: true });
    this.args = h("section", { class: "card", hidden: true });
    this.attempts = new Attempts();
    this.stacks = new Stacks();
    this.people = new People(page, this.id);
    this.trace = new Trace(() => this.page.api.get(`${encodeURIComponent(this.id)}/trace`));
    this.logs = h("div", { class: "logs", role: "log", tabindex: "0", "aria-label": "Log" });
    this.logNote = h("span", { class: "muted" });
    this.tools = new LogTools(this.logs, () => this.seen.values(), () => `${this.task?.func_name ?? "task"}-${shortId(this.id)}.log`);
    root.append(
      h("a", { class: "back", href: "?view=tasks" }, icon("back"), "Tasks"),
      this.head,
      h(
        "div",
        { class: "task-columns" },
        h(
          "div",
          { class: "task-main" },
          this.progress,
          h("div", { class: "beside" }, this.error, this.args),
          this.stacks.element,
          this.attempts.element,
          h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", { text: "Timeline" }), legend()), this.bars, this.events),
          this.trace.element,
          h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", { text: "Log" }), this.logNote), this.tools.element, this.logs),
        ),
        h("section", { class: "card rail", "aria-label": "Facts" }, this.facts),
      ),
    );
    this.clock = setInterval(() => this.#tick(), 500);
    this.following = setInterval(() => this.#follow(), FOLLOW);
  }

  close() {
    clearInterval(this.clock);
    clearInterval(this.following);
    clearTimeout(this.soon);
    clearTimeout(this.rowsSoon);
  }

  async refresh() {
    this.task = await this.page.api.get(encodeURIComponent(this.id));
    if (LIVE.has(this.task.status)) this.reads = LATE_READS;
    const first = this.seen.size === 0;
    this.#draw();
    // Changes wait for the end of a reading, and must not wait for a slow trace.
    await Promise.race([this.trace.refresh(), new Promise((resolve) => setTimeout(resolve, TRACE_PATIENCE))]);
    // The view has no height before it is shown, which it is after this.
    if (first && LIVE.has(this.task.status)) requestAnimationFrame(() => this.tools.toEnd());
  }

  change(tasks, logs) {
    if (!this.task) return;
    for (const line of logs) {
      if (line.task_id !== this.id) continue;
      this.streamed = true;
      this.#addLog(line);
    }
    const delta = tasks.get(this.id);
    if (!delta) return;
    const same = (name) => delta[name] === undefined || delta[name] === this.task[name];
    if (["status", "attempt", "instance", "reason"].every(same)) {
      // The error of a delta is only the first line of it.
      Object.assign(this.task, { ...delta, error: this.task.error });
      this.#drawProgress();
      return;
    }
    clearTimeout(this.soon);
    this.soon = setTimeout(() => this.page.refresh(), 60);
  }

  #draw() {
    const { task } = this;
    redraw(
      this.head,
      h("div", { class: "view-head task-head" }, h("h1", { text: task.func_name }), pill(task.status), this.blocked, taskActions(this.page, task)),
      (this.sentence = h("p", { class: "sentence", text: this.#sentence() })),
    );
    redraw(this.facts, this.#facts());
    this.#drawProgress();
    this.bars.replaceChildren(timeline(task));
    this.people.draw(task, this.events);
    setShown(this.error, Boolean(task.error || task.stacktrace));
    redraw(
      this.error,
      h("div", { class: "card-head" }, h("h2", { text: task.error_type ?? "Error" }), task.fingerprint ? h("a", { href: `?${new URLSearchParams({ view: "failures", fingerprint: task.fingerprint })}`, text: "Its group" }) : null),
      isTold(task) ? "" : h("p", { class: "error-text", text: task.error ?? "" }),
      task.causes?.length ? causes(task.causes, task.stacktrace) : "",
    );
    for (const line of task.logs ?? []) this.#addLog(line);
    this.#noteLogs();
    this.#drawLines();
    const hasArgs = task.arguments !== undefined;
    setShown(this.args, hasArgs);
    if (hasArgs) {
      const shown = task.arguments ?? "Encrypted, or not stored.";
      redraw(this.args, h("div", { class: "card-head" }, h("h2", { text: "Arguments" })), h("pre", { class: "trace", text: shown }));
    }
  }

  /** The state of the task as a sentence, with what is remarkable about it. */
  #sentence() {
    return [this.#state(), this.#remark()].filter(Boolean).join(" · ");
  }

  #state() {
    const { task } = this;
    const number = task.timeline.filter((entry) => entry.transition === "started").length;
    const tried = number ? ` after ${plural(number, "attempt")}` : " without an attempt";
    const when = ago(task.end_time ?? task.created_at);
    if (task.status === "success") return `Succeeded ${when}${number > 1 ? tried : ""}`;
    if (task.status === "failed") return `Failed ${when}${tried}`;
    if (task.status === "running") return `Running for ${elapsed(secondsBetween(task.start_time ?? task.created_at))}, attempt ${task.attempt + 1}`;
    if (task.status === "pending") return number ? `Waiting for attempt ${number + 1}` : `Waiting for ${elapsed(secondsBetween(task.created_at))}`;
    return `${task.status[0].toUpperCase()}${task.status.slice(1)} ${when}${tried}`;
  }

  /** What is made of the lines of the log. */
  #drawLines() {
    const lines = [...this.seen.values()].map(({ line }) => line);
    this.attempts.draw(this.task, lines);
    this.stacks.draw(lines);
    const blocks = blocksIn(lines);
    setShown(this.blocked, blocks.length > 0);
    this.blocked.title = blocks.length ? `${plural(blocks.length, "time")}, the last one at ${precise(blocks.at(-1).timestamp)}: nothing else ran in its process in that time` : "";
  }

  #remark() {
    const { task } = this;
    if (task.cancel_requested && LIVE.has(task.status)) return "cancellation requested";
    if (task.status === "pending" && task.run_at && Date.parse(task.run_at) > now()) return [reasonText(task.reason), `not before ${clock(task.run_at)}`].filter(Boolean).join(", ");
    return reasonText(task.reason);
  }

  #facts() {
    const { task } = this;
    const facts = [
      ["Task id", copyable(task.task_id)],
      ["Trace id", task.trace_id ? copyable(task.trace_id) : null],
      ["Created", moment(task.created_at)],
      ["Started", task.start_time && moment(task.start_time)],
      ["Ended", task.end_time && moment(task.end_time)],
      ["Run time", (this.took = h("span", { text: this.#runTime() }))],
      ["Attempt", `${task.attempt + 1}${task.retries_used ? ` (${plural(task.retries_used, "retry").replace("retrys", "retries")} used)` : ""}`],
      ["Queue", `${task.queue} · priority ${task.priority}`],
      ["Executor", task.executor],
      ["Source", task.source],
      ["Ran on", this.#ranOn() ? copyable(this.#ranOn()) : null],
      ["Owner", task.instance && task.instance !== this.#ranOn() ? copyable(task.instance) : null],
      ["Idempotency key", task.idempotency_key ? copyable(task.idempotency_key) : null],
      ["Retry of", task.retry_of && taskLink(task.retry_of)],
      ["Retried by", task.retried_by && taskLink(task.retried_by)],
      ["Damaged", task.damage],
      ["Duplicate of", task.duplicate_of && taskLink(task.duplicate_of)],
      ["Tags", Object.keys(task.tags).length ? h("span", {}, Object.entries(task.tags).map(([key, value]) => h("a", { class: "tag", href: `?${new URLSearchParams({ view: "tasks", tag: `${key}:${value}` })}`, text: `${key}:${value}` }))) : null],
    ];
    return facts.filter(([, value]) => value).map(([name, value]) => h("div", { class: WIDE.has(name) ? "wide" : null }, h("dt", { text: name }), h("dd", {}, value)));
  }

  /** The instance that ran the latest attempt. */
  #ranOn() {
    return this.task.timeline.findLast((entry) => entry.transition === "started")?.instance ?? null;
  }

  #drawProgress() {
    const { progress, status } = this.task;
    setShown(this.progress, Boolean(progress));
    if (!progress) return;
    const part = progress.total ? Math.min(1, progress.done / progress.total) : null;
    const label = progress.total ? `${progress.done} of ${progress.total} (${Math.round(part * 100)} %)` : `${progress.done} done`;
    const fill = h("i");
    fill.style.width = `${(part ?? 1) * 100}%`;
    this.progress.replaceChildren(
      h("div", { class: "card-head" }, h("h2", { text: "Progress" }), h("span", { class: "mono", text: label })),
      h("div", { class: `meter big${part === null && status === "running" ? " unknown" : ""}`, role: "progressbar", "aria-label": label, "aria-valuenow": part === null ? null : Math.round(part * 100), "aria-valuemin": "0", "aria-valuemax": "100" }, fill),
      h("p", { class: "muted", text: progress.message ?? "" }),
    );
  }

  /** Read the newest lines of a task that runs elsewhere: the stream has the lines of its own instance alone. */
  async #follow() {
    if (document.hidden || !this.task || this.streamed || this.asking) return;
    // The last lines are stored a moment after the outcome.
    if (LIVE.has(this.task.status)) this.reads = LATE_READS;
    else if (this.reads) this.reads -= 1;
    else return;
    this.asking = true;
    try {
      const after = Math.max(-1, ...this.seen.keys());
      const { logs } = await this.page.api.get(encodeURIComponent(this.id), { logs_after: after });
      for (const line of logs) this.#addLog(line);
    } catch {
      // The page says what does not answer; the next reading asks again.
    } finally {
      this.asking = false;
    }
  }

  #addLog(line) {
    const known = this.seen.get(line.seq);
    if (known) {
      // What was read may be more than what the stream told.
      if (stringify(known.line) !== stringify(line)) known.element.replaceWith(this.#line(line));
      return;
    }
    const { scrollTop, scrollHeight, clientHeight } = this.logs;
    const following = scrollHeight - scrollTop - clientHeight < NEAR_END;
    const element = this.#line(line);
    // A line of an earlier number may arrive later, from the other source.
    const next = [...this.seen.keys()].filter((seq) => seq > line.seq);
    this.logs.insertBefore(element, next.length ? this.seen.get(Math.min(...next)).element : null);
    if (following) this.tools.toEnd();
    this.#noteLogs();
    // Many lines at once are one change of the rows.
    this.rowsSoon ??= setTimeout(() => {
      this.rowsSoon = null;
      this.tools.apply();
      this.#drawLines();
    }, ROWS_SETTLE);
  }

  #line(line) {
    const stack = stackOf(line);
    const extra = Object.entries(line.extra ?? {}).filter(([key]) => !(stack && key === "stack"));
    const element = h(
      "div",
      { class: "log", data: { level: line.level } },
      h("span", { class: "log-time", text: precise(line.timestamp), title: full(line.timestamp) }),
      h("span", { class: "log-level", text: line.level }),
      h("span", { class: "log-text" }, line.message, extra.map(([key, value]) => h("span", { class: "tag", text: `${key}=${typeof value === "string" ? value : stringify(value)}` })), stack ? folded(stack) : null),
    );
    element.hidden = !this.tools.accepts(line);
    this.seen.set(line.seq, { line, element });
    return element;
  }

  #noteLogs() {
    const dropped = this.task.logs_dropped ? `, ${this.task.logs_dropped} more were not kept` : "";
    setText(this.logNote, this.seen.size || dropped ? `${plural(this.seen.size, "line")}${dropped}` : "nothing written");
    setShown(this.logs, this.seen.size > 0);
    setShown(this.tools.element, this.seen.size > 0);
  }

  #runTime() {
    const { task } = this;
    return task.status === "running" && task.start_time ? elapsed(secondsBetween(task.start_time)) : duration(task.duration);
  }

  #tick() {
    if (document.hidden || !this.task) return;
    setText(this.sentence, this.#sentence());
    if (!LIVE.has(this.task.status)) return;
    setText(this.took, this.#runTime());
    this.bars.replaceChildren(timeline(this.task));
  }
}

function moment(iso) {
  return h("span", { text: zoned(iso), title: full(iso) });
}

/** Whether the only exception of the traceback says the whole error. */
function isTold(task) {
  return task.causes?.length === 1 && Boolean(task.error) && task.causes[0].error.endsWith(task.error);
}

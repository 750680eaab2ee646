// One type of tasks: its figures, its run times over time, its slowest tasks, its failures, and how it is declared.

import { activity, LAYERS, sparkline } from "./chart.js";
import { copyable, h, icon, pill, redraw } from "./dom.js";
import { titleOf } from "./failure.js";
import { ago, change, clock, count, duration, full, plural, share, shortId } from "./format.js";
import { heatmap } from "./heat.js";
import { stillWanted } from "./reading.js";
import { marked } from "./releases.js";
import { compare } from "./view_types.js";

const WINDOWS = ["1h", "24h", "7d"];
const GROUPS = 5;

/** One type. */
export class TypeView {
  constructor(page, root) {
    this.page = page;
    this.name = page.params.get("name") ?? "";
    this.window = WINDOWS.find((name) => name === page.params.get("window")) ?? "24h";
    this.switch = h(
      "div",
      { class: "segmented", role: "group", "aria-label": "Window" },
      WINDOWS.map((name) => h("button", { type: "button", text: name, "aria-pressed": String(name === this.window), on: { click: () => this.#choose(name) } })),
    );
    this.body = h("div", { class: "view type" });
    root.append(
      h("a", { class: "back", href: "?view=types" }, icon("back"), "Types"),
      h(
        "div",
        { class: "view-head" },
        h("h1", {}, copyable(this.name)),
        h("a", { class: "button small", href: link({ view: "tasks", func_name: this.name }), text: "Tasks" }),
        h("a", { class: "button small", href: link({ view: "failures", func_name: this.name }), text: "Failures" }),
        this.switch,
      ),
      this.body,
    );
  }

  async refresh() {
    const path = `types/${encodeURIComponent(this.name)}`;
    const read = () =>
      Promise.all([
        this.page.api.get(path, { window: this.window }),
        this.page.api.get("failures", { func_name: this.name, ended_since: this.window, limit: GROUPS, order: "recent" }),
        this.page.releases.read(),
      ]);
    const found = await stillWanted(() => this.window, read);
    if (found === null) return;
    const [type, failures, releases] = found;
    redraw(this.body, parts(type, failures, releases, this.window));
  }

  poll() {
    return this.refresh();
  }

  #choose(name) {
    this.window = name;
    for (const button of this.switch.children) button.setAttribute("aria-pressed", String(button.textContent === name));
    this.page.remember({ view: "type", name: this.name, window: name });
    this.page.refresh();
  }
}

function parts(type, failures, releases, window) {
  const since = columnsBegin(type);
  const withMarks = (drawn) => marked(drawn, releases, since, type.bucket_seconds * type.points.length);
  return [
    h("p", { class: "sentence", text: compare(type) }),
    h("section", { class: "tiles", "aria-label": "Figures" }, tiles(type)),
    h(
      "div",
      { class: "columns" },
      card("Finished", legend(), type.finished ? chart(type, withMarks) : nothing(type)),
      card("Run times", null, type.bands.length ? h("div", { class: "chart" }, heatmap(type.bands, type.heat, since, type.bucket_seconds, withMarks), axis(type)) : nothing(type)),
    ),
    h(
      "div",
      { class: "columns" },
      card("Slowest", type.slowest_exact ? null : h("span", { class: "muted", text: "of the newest tasks" }), slowest(type)),
      card("Failures", h("a", { href: link({ view: "failures", func_name: type.func_name, since: window }), text: "See all" }), groups(failures)),
    ),
    h("div", { class: "columns" }, card("Options", null, options(type)), type.objective ? card("Objective", null, objective(type.objective)) : null),
  ];
}

/** A column begins at a multiple of its width. */
function columnsBegin(type) {
  const width = type.bucket_seconds * 1000;
  return Math.floor(Date.parse(type.since) / width) * width;
}

function tiles(type) {
  const tile = (title, value, caption, values = null, tone = "") =>
    h("div", { class: "tile", data: { tone } }, h("span", { class: "tile-title", text: title }), h("strong", { text: value }), h("small", { text: caption }), values ? h("div", { class: "tile-spark" }, sparkline(values)) : null);
  const totals = type.points.map((point) => point.success + point.failed + point.other);
  const compared = type.change === null ? "last week: not known" : `${change(type.change)} to last week`;
  const slower = type.slower === null ? "" : `, ${change(type.slower)} to last week`;
  return [
    tile("Finished", count(type.finished), compared, totals.length ? totals : null),
    tile("Failure share", share(type.failure_share), type.failed === null ? "not kept by this backend" : plural(type.failed, "failure"), type.points.length ? type.points.map((point) => point.failed) : null, type.failure_share >= 0.05 ? "bad" : ""),
    tile("Retries", count(type.retries), type.retried === null ? "not kept by this backend" : `of ${plural(type.retried, "task")}`),
    tile("Run time p95", duration(type.run_p95_seconds), `p50 ${duration(type.run_p50_seconds)}, p99 ${duration(type.run_p99_seconds)}${slower}`),
    tile("Wait p95", duration(type.wait_p95_seconds), "to the first start"),
    tile("Running", count(type.running), `${count(type.pending)} pending`),
  ];
}

function card(title, beside, content) {
  return h("section", { class: "card", "aria-label": title }, h("div", { class: "card-head" }, h("h2", { text: title }), beside), content);
}

function legend() {
  return h("div", { class: "legend" }, LAYERS.map((name) => h("span", {}, h("i", { class: `dot-${name}` }), name)));
}

function nothing(type) {
  return h("p", { class: "muted", text: type.finished === null ? "This backend does not keep figures." : "Nothing finished in this window." });
}

function chart(type, withMarks) {
  const drawn = activity(type.points);
  return h("div", { class: "chart" }, h("span", { class: "chart-top mono", text: count(drawn.top) }), h("div", { class: "chart-box" }, withMarks(drawn.chart), drawn.table), axis(type));
}

function axis(type) {
  return h("div", { class: "chart-axis mono" }, h("span", { text: clock(type.since) }), h("span", { text: "now" }));
}

function slowest(type) {
  if (!type.slowest.length) return h("p", { class: "muted", text: "No task of this window is stored." });
  return h(
    "ol",
    { class: "samples" },
    type.slowest.map((task) =>
      h(
        "li",
        {},
        h("strong", { class: "num sample-took", text: duration(task.duration) }),
        pill(task.status),
        h("a", { class: "mono", href: link({ view: "task", id: task.task_id }), text: shortId(task.task_id), title: task.task_id }),
        h("span", { class: "muted", text: ago(task.end_time), title: full(task.end_time) }),
      ),
    ),
  );
}

function groups(failures) {
  if (!failures.groups.length) return h("p", { class: "muted", text: "Nothing of this type has failed in this window." });
  return h(
    "ol",
    { class: "samples" },
    failures.groups.map((group) =>
      h(
        "li",
        {},
        h("a", { href: link({ view: "failures", fingerprint: group.fingerprint }), text: titleOf(group) }),
        group.trend ? h("span", { class: `badge ${group.trend}`, text: group.trend }) : null,
        h("span", { class: "muted sample-error", text: group.example, title: group.example }),
        h("span", { class: "muted", text: `${count(group.open)} open of ${count(group.count)}, last ${ago(group.last_at)}`, title: full(group.last_at) }),
      ),
    ),
  );
}

function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.map(([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", { text: value }))));
}

function options(type) {
  const { options: given } = type;
  if (given === null) return h("p", { class: "muted", text: "The instance that answers does not declare this type." });
  const yes = (value) => (value ? "yes" : "no");
  const retried = given.retries ? [["Delay", `${duration(given.delay)}, then × ${given.backoff}${given.max_delay === null ? "" : `, at most ${duration(given.max_delay)}`}${given.jitter ? `, ± ${share(given.jitter)}` : ""}`], ["Retry on", given.retry_on.join(", ")], ...(given.no_retry_on.length ? [["Do not retry on", given.no_retry_on.join(", ")]] : [])] : [];
  return facts([
    ["Retries", String(given.retries)],
    ...retried,
    ["Timeout", given.timeout === null ? "none" : duration(given.timeout)],
    ["Queue", given.queue ?? "default"],
    ["Executor", given.executor],
    ["Priority", given.priority === null ? "none" : String(given.priority)],
    ["Persisted", yes(given.persist)],
    ["Requeued after an interruption", yes(given.requeue_on_interrupt)],
    ["Eager", yes(given.eager)],
  ]);
}

function objective(one) {
  const limit = one.within_seconds === null ? "" : ` in ${duration(one.within_seconds)}`;
  const left = one.budget_left;
  return facts([
    ["Objective", `${Number((one.success * 100).toPrecision(8))} %${limit}, over ${duration(one.window_seconds)}`],
    ["Budget left", left !== null && left < 0 ? `${Math.round(left * 100)} %` : share(left)],
    ["Good", count(one.good)],
    ["Bad", count(one.bad)],
    ["Overdue", count(one.overdue)],
  ]);
}

function link(params) {
  return `?${new URLSearchParams(params)}`;
}

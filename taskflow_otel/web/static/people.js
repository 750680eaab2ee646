// The timeline of a task as rows, with who did what to it: from the audit, which all instances share.

import { h, redraw } from "./dom.js";
import { full, precise } from "./format.js";
import { reasonText } from "./rows.js";
import { taskLink } from "./task_actions.js";
import { places } from "./timeline.js";

const SAID = {
  "retry-task": "retried",
  "bulk-retry": "retried with others",
  "retry-failed": "retried with others",
  "cancel-task": "cancellation asked for",
  "bulk-cancel": "cancellation asked for, with others",
  "ask-for-stack": "stack asked for",
  "delete-history": "deletion of the history",
  "pause-queue": "queue paused",
  "resume-queue": "queue resumed",
};
const CANCELS = new Set(["cancel-task", "bulk-cancel"]);
const RETRIES = new Set(["retry-task", "bulk-retry", "retry-failed"]);
// The entry of an action is written with its answer: what it did may be earlier by this many milliseconds.
const LATE = 15000;
const NEAR = 900000;

/** What people did to one task. */
export class People {
  constructor(page, id) {
    this.page = page;
    this.id = id;
    this.actions = [];
    this.origin = null;
  }

  /** Write the rows of a timeline, and once more when the audit was read. */
  async draw(task, list) {
    this.#write(task, list);
    const reading = (this.reading = Symbol("reading"));
    try {
      const [own, queue, origin] = await Promise.all([this.#about(this.id), this.#ofQueue(task), task.retry_of ? this.#about(task.retry_of) : []]);
      if (reading !== this.reading) return;
      this.actions = [...own, ...queue];
      this.origin = task.retry_of ? maker(origin, task) : null;
    } catch {
      // The page says what does not answer; the timeline is complete without names.
      return;
    }
    this.#write(task, list);
  }

  #about(id) {
    return this.page.api.get("audit", { task_id: id, limit: 200 });
  }

  /** What was done to the queue while the task waited in it. */
  async #ofQueue(task) {
    const until = task.start_time ?? task.end_time ?? undefined;
    const read = (action) => this.page.api.get("audit", { action, outcome: "done", since: task.created_at, until, limit: 50 });
    const found = await Promise.all(["pause-queue", "resume-queue"].map(read));
    return found.flat().filter((one) => one.target === task.queue);
  }

  #write(task, list) {
    const left = new Set(this.actions);
    const where = places(task.timeline);
    const rows = task.timeline.map((entry, index) => {
      const who = this.#cause(entry, index, left);
      const text = [`attempt ${entry.attempt + 1}`, reasonText(entry.reason), where[index]].filter(Boolean).join(" · ");
      return { at: Date.parse(entry.timestamp), element: row(entry.timestamp, entry.transition.replaceAll("_", " "), [text, who ? by(who) : null]) };
    });
    for (const one of left) {
      const refused = one.outcome === "done" ? null : ` · ${one.outcome}${one.detail ? `: ${one.detail}` : ""}`;
      rows.push({ at: Date.parse(one.at), element: row(one.at, SAID[one.action] ?? one.action, [by(one), made(one), refused], true) });
    }
    rows.sort((one, other) => one.at - other.at);
    redraw(list, rows.map(({ element }) => element));
  }

  /** Who brought about a transition; that action needs no row of its own. */
  #cause(entry, index, left) {
    if (index === 0) return this.origin;
    if (entry.transition !== "cancelled" || entry.reason !== "cancelled") return null;
    const latest = Date.parse(entry.timestamp) + LATE;
    const found = [...left].filter((one) => CANCELS.has(one.action) && one.outcome === "done" && Date.parse(one.at) <= latest).sort((one, other) => (one.at < other.at ? 1 : -1))[0];
    if (!found) return null;
    left.delete(found);
    return found;
  }
}

/** Of the actions on the original, the one that made this task. */
function maker(entries, task) {
  const retries = entries.filter((one) => RETRIES.has(one.action) && one.outcome === "done");
  const named = retries.find((one) => one.detail?.startsWith(`as ${task.task_id}`));
  if (named) return named;
  const created = Date.parse(task.created_at);
  const away = (one) => Math.abs(Date.parse(one.at) - created);
  const near = retries.filter((one) => one.operation_id).sort((one, other) => away(one) - away(other))[0];
  return near && away(near) < NEAR ? near : null;
}

function row(at, name, parts, person = false) {
  return h(
    "li",
    { class: person ? "person" : null },
    h("span", { class: "mono muted", text: precise(at), title: full(at) }),
    h("span", { class: "event-name", text: name }),
    h("span", { class: "muted" }, parts.filter(Boolean).flatMap((part, index) => (index && typeof part !== "string" ? [" · ", part] : [part]))),
  );
}

/** Who, and why. */
function by(entry) {
  const who = `by ${entry.actor ?? "someone (no login)"}`;
  const operation = entry.operation_id ? h("a", { href: `?${new URLSearchParams({ view: "operation", id: entry.operation_id })}`, text: " in a bulk operation" }) : null;
  return h("span", { class: "who-did" }, h("strong", { text: who }), operation, entry.reason ? `: ${entry.reason}` : null);
}

function made(entry) {
  const id = /^as ([0-9a-f-]{36})/.exec(entry.detail ?? "")?.[1];
  return id ? h("span", {}, "as ", taskLink(id), entry.detail.slice(39)) : null;
}

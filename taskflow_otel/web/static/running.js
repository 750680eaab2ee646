// What runs now: the longest first, each beside what is usual for its type.

import { empty, h, setShown, setText } from "./dom.js";
import { count, duration, elapsed, secondsBetween, shortId } from "./format.js";

/** How many times as long as usual a task has run; null while that is nothing remarkable, or what is usual is not known. */
export function excess(seconds, usual) {
  if (!usual || seconds <= usual) return null;
  const times = seconds / usual;
  return `${times < 10 ? times.toFixed(1) : Math.floor(times)}× p95`;
}

/** A table of running tasks that follows the stream. `most`: the rows it shows. */
export class RunningRows {
  constructor({ most = 8, compact = true } = {}) {
    this.most = most;
    this.compact = compact;
    this.rows = new Map();
    this.usual = {};
    this.total = 0;
    this.number = h("span", { class: "muted" });
    this.body = h("tbody");
    const columns = compact ? ["Task", "Running for"] : ["Task", "Queue", "Instance", "Attempt", "Running for"];
    this.table = h("table", { class: compact ? "tasks compact running-rows" : "tasks running-rows" }, h("thead", {}, h("tr", {}, columns.map((text) => h("th", { scope: "col", text })))), this.body);
    this.blank = empty("Nothing runs now", "A task appears here while its function runs.");
    this.clock = setInterval(() => document.hidden || this.#tick(), 1000);
    this.#settle();
  }

  close() {
    clearInterval(this.clock);
  }

  /** Read what runs now. */
  async read(page) {
    const found = await page.api.get("running", { limit: this.most });
    this.usual = found.p95_seconds;
    this.total = found.total;
    const kept = new Set(found.tasks.map((task) => task.task_id));
    for (const [id, row] of this.rows) if (!kept.has(id)) this.#drop(id, row);
    for (const task of found.tasks) {
      const row = this.rows.get(task.task_id) ?? this.#make(task);
      row.task = task;
    }
    setText(this.number, found.exact ? `${count(found.total)} in all` : `at least ${count(found.total)}`);
    this.#order();
    this.#settle();
  }

  /** Apply one change from the stream. */
  change(delta) {
    const row = this.rows.get(delta.task_id);
    if (row && delta.status && delta.status !== "running") this.#drop(delta.task_id, row);
    else if (row) Object.assign(row.task, delta);
    else if (delta.status === "running" && delta.func_name && delta.start_time && this.rows.size < this.most) this.#make({ ...delta });
    else return;
    this.#order();
    this.#settle();
  }

  #make(task) {
    const row = { task, time: h("span"), badge: h("span", { class: "badge rising", hidden: true }), note: h("span", { class: "note" }) };
    const link = h("a", { class: "row-link", href: `?view=task&id=${encodeURIComponent(task.task_id)}`, text: task.func_name });
    const name = h("td", { class: "what" }, link, h("span", { class: "mono id", text: shortId(task.task_id), title: task.task_id }), row.note);
    const facts = this.compact ? [] : [h("td", { class: "queue", text: task.queue ?? "" }), h("td", { class: "mono clip", text: task.instance ?? "", title: task.instance }), h("td", { class: "num", text: String((task.attempt ?? 0) + 1) })];
    row.element = h("tr", { data: { id: task.task_id } }, name, facts, h("td", { class: "num took" }, row.badge, " ", row.time));
    this.rows.set(task.task_id, row);
    return row;
  }

  #drop(id, row) {
    row.element.remove();
    this.rows.delete(id);
  }

  /** The longest first. A row that is in its place is not moved: it may have the focus. */
  #order() {
    const rows = [...this.rows.values()].sort((one, other) => Date.parse(one.task.start_time) - Date.parse(other.task.start_time));
    rows.forEach((row, index) => {
      const there = this.body.children[index];
      if (there !== row.element) this.body.insertBefore(row.element, there ?? null);
    });
    this.#tick();
  }

  #tick() {
    for (const { task, time, badge, note } of this.rows.values()) {
      const seconds = secondsBetween(task.start_time);
      const usual = Object.hasOwn(this.usual, task.func_name) ? this.usual[task.func_name] : null;
      const more = excess(seconds, usual);
      setText(time, elapsed(seconds));
      setText(badge, more ?? "");
      setShown(badge, more !== null);
      if (more) badge.title = `95 % of its successes within the last 24 hours took at most ${duration(usual)}`;
      const { progress } = task;
      setText(note, progress ? [progress.total ? `${progress.done} of ${progress.total}` : String(progress.done), progress.message].filter(Boolean).join(" · ") : "");
    }
  }

  #settle() {
    setShown(this.blank, this.rows.size === 0);
    setShown(this.table, this.rows.size > 0);
  }
}

/** The card of the overview. */
export class RunningPanel {
  constructor() {
    this.rows = new RunningRows();
    this.element = h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", { text: "Running now" }), this.rows.number, h("a", { href: "?view=running", text: "See all" })), this.rows.table, this.rows.blank);
  }

  read(page) {
    return this.rows.read(page);
  }

  change(deltas) {
    for (const delta of deltas) this.rows.change(delta);
  }
}

/** All that runs, as a view of its own. */
export class RunningView {
  constructor(page, root) {
    this.page = page;
    this.rows = new RunningRows({ most: 200, compact: false });
    root.append(h("div", { class: "view-head" }, h("h1", { text: "Running" }), this.rows.number, h("span", { class: "muted", text: "on all instances, the longest first" })), h("section", { class: "card flush" }, this.rows.table, this.rows.blank));
  }

  close() {
    this.rows.close();
  }

  refresh() {
    return this.rows.read(this.page);
  }

  poll() {
    return this.rows.read(this.page);
  }

  change(tasks) {
    for (const delta of tasks.values()) this.rows.change(delta);
  }
}

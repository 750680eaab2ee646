// Tasks as rows that follow the stream: one change updates one row.

import { h, pill, setShown, setText } from "./dom.js";
import { clock, duration, elapsed, firstLine, full, secondsBetween, shortId } from "./format.js";
import { LIVE, REASONS } from "./vocabulary.js";

/**
 * A table of tasks, newest first: by their ids, or by another field. `accepts(task, known)` returns whether a task belongs here;
 * `limit` bounds the rows.
 */
export class TaskRows {
  #rows = new Map();
  #running = new Set();

  constructor({ accepts, limit = 500, compact = false, by = "task_id" }) {
    this.by = by;
    this.accepts = accepts;
    this.limit = limit;
    this.compact = compact;
    this.complete = true;
    this.body = h("tbody");
    this.table = h(
      "table",
      { class: compact ? "tasks compact" : "tasks" },
      h("thead", {}, h("tr", {}, columns(compact).map((title) => h("th", { scope: "col", text: title })))),
      this.body,
    );
    this.clock = setInterval(() => this.#tick(), 1000);
  }

  close() {
    clearInterval(this.clock);
  }

  get size() {
    return this.#rows.size;
  }

  /**
   * Show exactly these tasks; `complete`: there are no more after them. The row of a task that stays is the same element: a user who
   * stands on it still does after the reading.
   */
  replace(tasks, complete) {
    const ids = new Set(tasks.map((task) => task.task_id));
    for (const [id, row] of [...this.#rows]) if (!ids.has(id)) this.#drop(row);
    this.complete = complete;
    const active = /** @type {HTMLElement} */ (document.activeElement);
    let place = this.body.firstElementChild;
    for (const task of tasks) {
      const row = this.#shown(task);
      if (row.element === place) place = place.nextElementSibling;
      else this.body.insertBefore(row.element, place);
    }
    // An element that was moved has lost the focus.
    if (this.body.contains(active) && document.activeElement !== active) active.focus({ preventScroll: true });
  }

  append(tasks, complete) {
    this.complete = complete;
    for (const task of tasks) if (!this.#rows.has(task.task_id)) this.body.append(this.#make(task).element);
  }

  /** Apply one change from the stream. */
  change(delta) {
    const row = this.#rows.get(delta.task_id);
    if (row) {
      Object.assign(row.task, delta);
      if (this.accepts(row.task, true)) row.draw();
      else this.#drop(row);
      this.#follow(row);
    } else if (delta.func_name && delta.status && this.accepts(delta, false)) {
      this.#insert(delta);
    }
  }

  #insert(task) {
    // Ids are in the order of creation (UUIDv7). A new task is almost always the first.
    let after = this.body.firstElementChild;
    while (after && this.#rows.get(after.dataset.id).task[this.by] > task[this.by]) after = after.nextElementSibling;
    if (!after && !this.complete) return;
    const row = this.#make({ ...task });
    this.body.insertBefore(row.element, after);
    row.element.classList.add("fresh");
    if (this.#rows.size > this.limit) {
      this.complete = false;
      this.#drop(this.#rows.get(this.body.lastElementChild.dataset.id));
    }
  }

  #make(task) {
    const row = new Row(task, this.compact);
    this.#rows.set(task.task_id, row);
    this.#follow(row);
    return row;
  }

  /** The row of a task as it is now. */
  #shown(task) {
    const row = this.#rows.get(task.task_id);
    if (!row) return this.#make(task);
    row.task = task;
    row.draw();
    this.#follow(row);
    return row;
  }

  #drop(row) {
    // The focus on a row that goes moves to the next one.
    if (row.element.contains(document.activeElement)) linkIn(row.element.nextElementSibling ?? row.element.previousElementSibling)?.focus({ preventScroll: true });
    row.element.remove();
    this.#rows.delete(row.task.task_id);
    this.#running.delete(row);
  }

  #follow(row) {
    if (row.task.status === "running" && this.#rows.has(row.task.task_id)) this.#running.add(row);
    else this.#running.delete(row);
  }

  #tick() {
    if (!document.hidden) for (const row of this.#running) row.drawDuration();
  }
}

function linkIn(row) {
  return /** @type {HTMLElement | null} */ (row?.querySelector(".row-link") ?? null);
}

function columns(compact) {
  return compact ? ["Status", "Task", "Duration"] : ["Status", "Task", "Queue", "Created", "Duration", "Attempt"];
}

class Row {
  constructor(task, compact) {
    this.task = task;
    this.compact = compact;
    this.status = pill(task.status);
    this.duration = h("span");
    this.attempt = h("span");
    this.note = h("span", { class: "note" });
    this.bar = h("span", { class: "meter", "aria-hidden": "true" }, h("i"));
    const tags = Object.entries(task.tags ?? {}).slice(0, 3);
    const name = h(
      "td",
      { class: "what" },
      h("a", { class: "row-link", href: `?view=task&id=${encodeURIComponent(task.task_id)}`, text: task.func_name }),
      h("span", { class: "mono id", text: shortId(task.task_id), title: task.task_id }),
      tags.map(([key, value]) => h("span", { class: "tag", text: `${key}:${value}` })),
      this.note,
      this.bar,
    );
    const cells = [h("td", { class: "status" }, this.status), name];
    if (!compact) {
      cells.push(
        h("td", { class: "queue", text: task.queue ?? "" }),
        h("td", { class: "num created", text: clock(task.created_at), title: full(task.created_at) }),
      );
    }
    cells.push(h("td", { class: "num took" }, this.duration));
    if (!compact) cells.push(h("td", { class: "num attempt" }, this.attempt));
    this.element = h("tr", { data: { id: task.task_id } }, cells);
    this.draw();
  }

  draw() {
    const { task } = this;
    setText(this.status, task.status);
    this.status.dataset.status = task.status;
    setText(this.note, noteOf(task));
    this.note.classList.toggle("bad", Boolean(task.error) && !LIVE.has(task.status));
    setText(this.attempt, task.status === "pending" && !task.start_time ? "–" : String((task.attempt ?? 0) + 1));
    const progress = task.status === "running" && task.progress?.total ? task.progress : null;
    setShown(this.bar, Boolean(progress));
    if (progress) this.bar.firstElementChild.style.width = `${Math.min(100, (progress.done / progress.total) * 100)}%`;
    this.drawDuration();
  }

  drawDuration() {
    const { task } = this;
    if (task.status === "running" && task.start_time) setText(this.duration, elapsed(secondsBetween(task.start_time)));
    else setText(this.duration, duration(task.duration));
  }
}

export function reasonText(reason) {
  return reason ? (REASONS[reason] ?? reason.replaceAll("_", " ")) : "";
}

function noteOf(task) {
  if (task.status === "running" && task.progress) {
    const { done, total, message } = task.progress;
    return [total ? `${done} of ${total}` : String(done), message].filter(Boolean).join(" · ");
  }
  if (task.error && task.status !== "success") {
    const error = [task.error_type, firstLine(task.error)].filter(Boolean).join(": ");
    return task.status === "pending" ? `${reasonText(task.reason)} after ${error}` : error;
  }
  return task.status === "success" || task.status === "running" ? "" : reasonText(task.reason);
}

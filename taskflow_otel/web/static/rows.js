// Tasks as rows that follow the stream: one change updates one row.

import { h, pill, setShown, setText } from "./dom.js";
import { clock, duration, elapsed, firstLine, full, secondsBetween, shortId } from "./format.js";
import { LIVE, REASONS, STATUSES } from "./vocabulary.js";

/** What the rows of a page can be sorted by. */
export const SORTS = {
  status: (task) => STATUSES.indexOf(task.status),
  task: (task) => task.func_name,
  queue: (task) => task.queue,
  created: (task) => task.created_at,
  duration: (task) => (LIVE.has(task.status) && task.start_time ? secondsBetween(task.start_time) : task.duration),
  attempt: (task) => task.attempt ?? 0,
};

/** Rows are added and removed at most this often, in milliseconds: each time, all rows below them move. */
const PACE = 1000;

/**
 * A table of tasks, newest first: by their ids, or by another field. `accepts(task, known)` returns whether a task belongs here;
 * `limit` bounds the rows, and the tasks that wait. Changes are drawn at once. Rows come and go together, and not while `held()`, or
 * while the keyboard or the pointer is on one of them: until then, new tasks wait. `onSettled(waiting, more)` is called when
 * rows have come or gone, or wait; `more`: only the newest of those that wait are kept. With `onSelected()`, rows can be selected; with
 * `onSort(column)`, the heads are buttons that call it.
 */
export class TaskRows {
  #rows = new Map();
  #running = new Set();
  #waiting = new Map();
  #more = false;
  #leaving = new Set();
  #fresh = [];
  #settled = -PACE;
  #selected = new Set();
  #picked = null;
  #order = null;
  #later = 0;

  constructor({ accepts, limit = 100, compact = false, by = "task_id", held = () => false, onSelected = null, onSort = null, onSettled = /** @type {(waiting: number, more: boolean) => void} */ (() => {}) }) {
    this.by = by;
    this.accepts = accepts;
    this.limit = limit;
    this.compact = compact;
    this.held = held;
    this.onSettled = onSettled;
    /** The cursor of the tasks after those that are shown; null at the end of the list. */
    this.end = null;
    this.body = h("tbody", {
      on: { pointerleave: () => this.settle(), focusout: () => setTimeout(() => this.settle()), keydown: (event) => this.#key(event) },
    });
    this.onSelected = onSelected;
    this.pickAll = /** @type {HTMLInputElement} */ (h("input", { type: "checkbox", "aria-label": "Select all on this page", on: { change: () => this.#selectAll() } }));
    const head = (title) => (onSort ? h("button", { class: "sort", type: "button", text: title, on: { click: () => onSort(title.toLowerCase()) } }) : title);
    this.heads = columns(compact).map((title) => h("th", { scope: "col", data: { column: title.toLowerCase() } }, head(title)));
    this.table = h(
      "table",
      { class: compact ? "tasks compact" : "tasks" },
      h("thead", {}, h("tr", {}, onSelected ? h("th", { scope: "col", data: { column: "pick" } }, this.pickAll) : null, this.heads)),
      this.body,
    );
    this.clock = setInterval(() => this.#tick(), 1000);
  }

  close() {
    clearInterval(this.clock);
    clearTimeout(this.#later);
  }

  get size() {
    return this.#rows.size;
  }

  /** The tasks that are shown. */
  get tasks() {
    return [...this.#rows.values()].map((row) => row.task);
  }

  /** Show the rows in the order of a column of `SORTS`, or as they come (`null`). New tasks have no place among them, and wait. */
  sort(column, descending) {
    this.#order = column && { column, descending };
    for (const head of this.heads) {
      if (head.dataset.column === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    if (this.size) this.replace(this.tasks.sort((one, other) => (one[this.by] < other[this.by] ? 1 : -1)), this.end);
  }

  #inOrder(tasks) {
    if (!this.#order) return tasks;
    const { column, descending } = this.#order;
    const sign = descending ? -1 : 1;
    const missing = (value) => value === null || value === undefined;
    const compared = (one, other) => {
      // What a task does not have is last in either direction.
      if (missing(one) || missing(other)) return Number(missing(one)) - Number(missing(other));
      return one === other ? 0 : (one < other ? -1 : 1) * sign;
    };
    return [...tasks].sort((one, other) => compared(SORTS[column](one), SORTS[column](other)));
  }

  /** The tasks that are selected. */
  get selected() {
    return [...this.#selected].map((id) => this.#rows.get(id).task);
  }

  /** Select nothing. */
  deselect() {
    for (const id of [...this.#selected]) this.#select(this.#rows.get(id), false);
    this.#tell();
    this.settle();
  }

  /** The link in the first row. */
  get first() {
    return linkIn(this.body.firstElementChild);
  }

  /** Show exactly these tasks; `end`: the cursor of those after them. The row of a task that stays is the same element. */
  replace(tasks, end) {
    const ids = new Set(tasks.map((task) => task.task_id));
    for (const [id, row] of [...this.#rows]) if (!ids.has(id)) this.#drop(row);
    this.end = end;
    this.#forget();
    const active = /** @type {HTMLElement} */ (document.activeElement);
    let place = this.body.firstElementChild;
    for (const task of this.#inOrder(tasks)) {
      const row = this.#shown(task);
      if (row.element === place) place = place.nextElementSibling;
      else this.body.insertBefore(row.element, place);
    }
    // An element that was moved has lost the focus.
    if (this.body.contains(active) && document.activeElement !== active) active.focus({ preventScroll: true });
    this.onSettled(0, false);
    if (this.#selected.size) this.#tell();
  }

  /** What the tasks are now, by another reading of the same ones: like changes, it moves no row while the keyboard or the pointer is on one. */
  renew(tasks, end) {
    if (!this.#isHeld()) {
      this.replace(tasks, end);
      return;
    }
    const ids = new Set(tasks.map((task) => task.task_id));
    const oldest = tasks.at(-1)?.[this.by];
    const [last] = this.tasks.map((task) => task[this.by]).sort();
    for (const task of tasks) {
      if (this.#rows.has(task.task_id)) this.#shown(task);
      // What comes after the last row is on the next page until rows come and go.
      else if (last === undefined || task[this.by] > last) this.#putOff(task);
    }
    // Rows below the last one of the reading are not gone: newer tasks have taken their places in it.
    for (const [id, row] of this.#rows) if (!ids.has(id) && (end === null || row.task[this.by] > oldest)) this.#leaving.add(row);
    if (this.#selected.size) this.#tell();
    this.settle();
  }

  /** Apply changes from the stream, by the ids of their tasks. */
  change(deltas) {
    for (const delta of deltas) this.#change(delta);
    if (this.#selected.size) this.onSelected?.();
    this.settle();
  }

  /** Let rows come and go, unless the keyboard or the pointer is on one. `now`: also then, on request. */
  settle(now = false) {
    clearTimeout(this.#later);
    if (!this.#waiting.size && !this.#leaving.size) return;
    if (!now && this.#isHeld()) {
      for (const row of this.#leaving) row.element.classList.add("leaving");
      this.onSettled(this.#waiting.size, this.#more);
      return;
    }
    const soon = this.#settled + PACE - performance.now();
    if (!now && soon > 0) {
      this.#later = setTimeout(() => this.settle(), soon);
      return;
    }
    this.#settled = performance.now();
    for (const row of this.#leaving) this.#drop(row);
    this.#unmark();
    for (const task of this.#waiting.values()) this.#insert(task);
    this.#forget();
    while (this.#rows.size > this.limit) {
      this.#drop(this.#rows.get(this.#last));
      this.end = this.#last;
    }
    this.onSettled(0, false);
  }

  get #last() {
    return /** @type {HTMLElement} */ (this.body.lastElementChild).dataset.id;
  }

  #isHeld() {
    return this.#order !== null || this.#selected.size > 0 || this.body.matches(":hover, :focus-within") || this.held();
  }

  #select(row, selected) {
    row.pick.checked = selected;
    row.element.classList.toggle("selected", selected);
    if (selected) this.#selected.add(row.task.task_id);
    else this.#selected.delete(row.task.task_id);
  }

  #tell() {
    const number = this.#selected.size;
    this.pickAll.checked = number > 0 && number === this.#rows.size;
    this.pickAll.indeterminate = number > 0 && number < this.#rows.size;
    this.onSelected?.();
  }

  #selectAll() {
    for (const row of this.#rows.values()) this.#select(row, this.pickAll.checked);
    this.#tell();
    this.settle();
  }

  /** Select one row, or with the Shift key all from the last one on. */
  #pick(row, range) {
    const rows = [...this.body.children].map((element) => this.#rows.get(/** @type {HTMLElement} */ (element).dataset.id));
    const [here, before] = [rows.indexOf(row), rows.indexOf(this.#picked)];
    const some = range && before >= 0 ? rows.slice(Math.min(here, before), Math.max(here, before) + 1) : [row];
    for (const each of some) this.#select(each, row.pick.checked);
    this.#picked = row;
    this.#tell();
    this.settle();
  }

  #key(event) {
    const row = this.#rows.get(event.target.closest("tr")?.dataset.id);
    if (event.key !== "x" || !row?.pick || event.ctrlKey || event.metaKey || event.altKey) return;
    row.pick.checked = !row.pick.checked;
    this.#pick(row, false);
  }

  #change(delta) {
    const row = this.#rows.get(delta.task_id);
    const waiting = this.#waiting.get(delta.task_id);
    if (row) {
      Object.assign(row.task, delta);
      row.draw();
      this.#follow(row);
      if (!this.accepts(row.task, true)) this.#leaving.add(row);
      else if (this.#leaving.delete(row)) row.element.classList.remove("leaving");
    } else if (waiting) {
      Object.assign(waiting, delta);
      if (!this.accepts(waiting, false)) this.#waiting.delete(delta.task_id);
    } else if (delta.func_name && delta.status && this.accepts(delta, false)) {
      this.#putOff({ ...delta });
    }
  }

  #putOff(task) {
    this.#waiting.set(task.task_id, task);
    if (this.#waiting.size <= this.limit) return;
    this.#more = true;
    this.#waiting.delete(this.#waiting.keys().next().value);
  }

  #forget() {
    this.#waiting.clear();
    this.#more = false;
  }

  #insert(task) {
    // Ids are in the order of creation (UUIDv7). A new task is almost always the first.
    let after = /** @type {HTMLElement | null} */ (this.body.firstElementChild);
    while (after && this.#rows.get(after.dataset.id).task[this.by] > task[this.by]) after = /** @type {HTMLElement | null} */ (after.nextElementSibling);
    if (!after && this.end !== null) return;
    const row = this.#make(task);
    this.body.insertBefore(row.element, after);
    row.element.classList.add("fresh");
    this.#fresh.push(row);
  }

  /** New rows are marked until others are new: a mark that fades would be painted at every frame. */
  #unmark() {
    for (const row of this.#fresh.splice(0)) row.element.classList.remove("fresh");
  }

  #make(task) {
    const row = new Row(task, this.compact);
    if (this.onSelected) row.selectable((range) => this.#pick(row, range));
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
    if (this.#leaving.delete(row)) row.element.classList.remove("leaving");
    return row;
  }

  #drop(row) {
    // The focus on a row that goes moves to the next one.
    if (row.element.contains(document.activeElement)) linkIn(row.element.nextElementSibling ?? row.element.previousElementSibling)?.focus({ preventScroll: true });
    row.element.remove();
    this.#rows.delete(row.task.task_id);
    this.#running.delete(row);
    this.#leaving.delete(row);
    if (this.#selected.delete(row.task.task_id)) this.#tell();
  }

  #follow(row) {
    if (row.task.status === "running" && this.#rows.has(row.task.task_id)) this.#running.add(row);
    else this.#running.delete(row);
  }

  #tick() {
    if (document.hidden) return;
    for (const row of this.#running) row.drawDuration();
    if (this.#fresh.length && performance.now() - this.#settled > PACE) this.#unmark();
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

  /** Give the row a box by which it is selected: `picked(range)` is called when that has changed. */
  selectable(picked) {
    const { func_name, task_id } = this.task;
    this.pick = /** @type {HTMLInputElement} */ (h("input", { type: "checkbox", "aria-label": `Select ${func_name} ${shortId(task_id)}`, on: { click: (event) => picked(event.shiftKey) } }));
    this.element.prepend(h("td", { class: "pick" }, this.pick));
  }

  draw() {
    const { task } = this;
    setText(this.status, task.status);
    // Writing what is there already would be a change of the document too.
    if (this.status.dataset.status !== task.status) this.status.dataset.status = task.status;
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

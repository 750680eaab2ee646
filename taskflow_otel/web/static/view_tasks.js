import { empty, h, setShown, setText } from "./dom.js";
import { FILTERS } from "./filter.js";
import { FilterInput } from "./filter_input.js";
import { clock, count, plural } from "./format.js";
import { atLeast, KnownValues } from "./known_values.js";
import { Columns, SavedViews } from "./list_menus.js";
import { stillWanted } from "./reading.js";
import { SORTS, TaskRows } from "./rows.js";
import { Selection } from "./selection.js";
import { LIVE, STATUSES } from "./vocabulary.js";

const PAGE = 100;
/** Requests of one search by arguments, each for some thousands of tasks, until it asks whether to continue. */
const SEARCHES = 10;
/** Columns in which the greatest is looked for first. */
const NUMBERS = new Set(["created", "duration", "attempt"]);
const PAUSING = "No match among the newest tasks. “Older” searches older ones.";
/** Pixels up to which the page counts as not scrolled. */
const AT_TOP = 40;

const UNITS = { ms: 0.001, s: 1, m: 60, h: 3600, d: 86400, w: 604800 };

/** Seconds, written as the API takes them: `5`, `5s`, `500ms`. */
function inSeconds(text) {
  const [, number, unit] = /^([\d.]+)\s*([a-z]*)$/.exec(text.trim()) ?? [];
  return Number(number) * (UNITS[unit || "s"] ?? NaN);
}

function has(texts, wanted) {
  return !wanted || texts.some((text) => text?.toLowerCase().includes(wanted.toLowerCase()));
}

/** The list of tasks; its filters are in the address. */
export class TasksView {
  constructor(page, root) {
    this.page = page;
    this.filters = Object.fromEntries(FILTERS.map((name) => [name, page.params.get(name) ?? ""]));
    // The first task of each page that was left for an older one; the address knows that of this page alone.
    this.pages = page.params.get("cursor") ? [null, page.params.get("cursor")] : [null];
    this.rows = new TaskRows({
      accepts: (task, known) => this.#accepts(task, known),
      limit: PAGE,
      held: () => scrollY > AT_TOP,
      onSort: (column) => this.#sort(column),
      onSelected: page.session.can_act ? () => this.selection.draw() : null,
      onSettled: (waiting, more) => this.#settle(waiting, more),
    });
    this.selection = new Selection(page, this.rows, () => this.filters);
    this.count = h("span", { class: "muted", "aria-live": "polite" });
    this.newer = h("button", { class: "button", type: "button", text: "Newer", hidden: true, on: { click: () => this.#turn(-1) } });
    this.older = h("button", { class: "button", type: "button", text: "Older", hidden: true, on: { click: () => this.#turn(1) } });
    this.waiting = h("button", { class: "button small", type: "button", hidden: true, on: { click: () => this.#showNew() } });
    this.blank = empty("No tasks", "Nothing matches. Remove a filter, or enqueue a task.");
    this.pausing = empty("Nothing yet", PAUSING);
    this.blank.hidden = this.pausing.hidden = true;
    this.chips = new Map(["", ...STATUSES].map((status) => [status, this.#chip(status)]));
    this.sorted = h("span", { class: "muted" });
    this.searched = h("p", { class: "searched muted", role: "status", hidden: true });
    this.columns = new Columns(this.rows.table);
    this.saved = new SavedViews(page, () => this.#address());
    const [, back, column] = /^(-?)(\w+)$/.exec(page.params.get("sort") ?? "") ?? [];
    if (Object.hasOwn(SORTS, column ?? "")) this.order = { column, descending: back === "-" };
    this.values = new KnownValues(page.api, () => this.rows.tasks);
    this.input = new FilterInput(this.filters, {
      known: (key) => this.#known(key),
      learn: (key, others) => this.values.learn(key, others),
      number: (key, value, others) => this.values.number(key, value, others),
      changed: (filters) => this.#filter(filters),
    });
    this.clear = h("button", { class: "button small ghost", type: "button", text: "Clear", on: { click: () => page.open({ view: "tasks" }) } });
    root.append(
      h("div", { class: "view-head" }, h("h1", { text: "Tasks" }), this.count, this.sorted, h("span", { class: "menus" }, this.saved.element, this.columns.element)),
      h("div", { class: "chips", role: "group", "aria-label": "Status" }, [...this.chips.values()].map((chip) => chip.element)),
      h("form", { class: "filter-line", role: "search", on: { submit: (event) => event.preventDefault() } }, this.input.element, this.clear),
      this.searched,
      h("div", { class: "new-rows" }, this.waiting),
      h("section", { class: "card flush" }, this.rows.table, this.blank, this.pausing),
      this.selection.element,
      h("div", { class: "after" }, this.newer, this.older, h("span", { class: "keys" }, h("kbd", { text: "/" }), " search ", h("kbd", { text: "j" }), h("kbd", { text: "k" }), " move ", h("kbd", { text: "x" }), " select ", h("kbd", { text: "Enter" }), " open")),
    );
    this.scrolled = () => scrollY > AT_TOP || this.rows.settle();
    addEventListener("scroll", this.scrolled, { passive: true });
    this.#mark();
    this.#drawOrder();
  }

  close() {
    removeEventListener("scroll", this.scrolled);
    this.rows.close();
    this.input.close();
    this.reading = null;
  }

  async refresh() {
    const reading = (this.reading = Symbol("reading"));
    const wanted = new URLSearchParams(this.#shown()).toString();
    // A slower answer to an older reading must not replace a newer one.
    const isWanted = () => String(reading === this.reading);
    const found = await stillWanted(isWanted, () => (this.filters.args ? this.#search(isWanted) : this.page.api.tasks({ ...this.#shown(), limit: PAGE })));
    if (found === null) return;
    const { tasks, total, exact, next } = found;
    // What is read again stays where it is; other filters are another list.
    if (wanted === this.read) this.rows.renew(tasks, next);
    else this.rows.replace(tasks, next);
    this.read = wanted;
    this.#total(total, exact);
    setShown(this.searched, Boolean(this.filters.args));
    await this.poll();
  }

  /** Look for tasks by their arguments until one is found, and not for ever; it says how far it has come. */
  async #search(isWanted) {
    const about = isWanted();
    const sum = { tasks: [], total: 0, exact: false, next: this.pages.at(-1), searched: 0, unsearchable: 0, backTo: null };
    for (let round = 0; round < SEARCHES && isWanted() === about; round++) {
      const { cursor, ...filters } = { cursor: null, ...this.#shown() };
      const found = await this.page.api.tasks({ ...filters, cursor: round ? sum.next : cursor, limit: PAGE });
      if (isWanted() !== about) break;
      sum.tasks = found.tasks;
      sum.total = found.total;
      sum.exact = found.exact || (round > 0 && !cursor && !found.next && !sum.unsearchable && !found.unsearchable);
      sum.next = found.next;
      sum.searched += found.searched;
      sum.unsearchable += found.unsearchable;
      sum.backTo = found.backTo ?? sum.backTo;
      this.#say(sum, cursor);
      if (sum.tasks.length || !sum.next) break;
    }
    return sum;
  }

  #say({ searched, unsearchable, backTo, next }, cursor) {
    const reached = next ? `, back to ${clock(backTo)}` : cursor ? ", to the oldest" : ", which are all";
    const encoded = unsearchable ? ` ${plural(unsearchable, "task")} could not be searched: arguments that are encrypted, damaged or unknown.` : "";
    setText(this.searched, `Searched the arguments of ${plural(searched, "task")}${cursor ? " on from here" : ""}${backTo ? reached : ""}.${encoded} New tasks are not searched until you search again.`);
    setShown(this.searched, true);
  }

  async poll() {
    if (this.filters.args) {
      // No index has the arguments: nobody knows these numbers.
      for (const chip of this.chips.values()) setText(chip.number, "");
      return;
    }
    const stats = await this.page.api.get("stats", { ...this.filters, status: "" });
    for (const [status, chip] of this.chips) setText(chip.number, atLeast(stats[status || "total"], stats.exact));
    // If the total is a lower bound, the one of the list is better.
    if (stats.exact) this.#total(stats[this.filters.status || "total"], true);
  }

  change(tasks) {
    this.rows.change(tasks.values());
  }

  /** The filters and the page that are not as they are at first. */
  #shown() {
    const cursor = this.pages.at(-1);
    return Object.fromEntries(Object.entries({ ...this.filters, cursor }).filter(([, value]) => value));
  }

  #turn(step) {
    if (step > 0) this.pages.push(this.rows.end);
    else this.pages.pop();
    this.#read();
    scrollTo(0, 0);
  }

  async #showNew() {
    scrollTo(0, 0);
    if (this.order) {
      // Which tasks are on the page is not decided by their place on it.
      this.read = null;
      await this.page.refresh();
    } else this.rows.settle(true);
    this.rows.first?.focus({ preventScroll: true });
  }

  #read() {
    this.page.remember(this.#address());
    this.page.refresh();
  }

  /** What leads to the list as it is shown. */
  #address() {
    return { view: "tasks", ...this.#shown(), sort: this.order && `${this.order.descending ? "-" : ""}${this.order.column}` };
  }

  /** First one way, then the other, then as the tasks come. */
  #sort(column) {
    const first = NUMBERS.has(column);
    if (this.order?.column !== column) this.order = { column, descending: first };
    else if (this.order.descending === first) this.order = { column, descending: !first };
    else this.order = null;
    this.#drawOrder();
    this.page.remember(this.#address());
  }

  #drawOrder() {
    this.rows.sort(this.order?.column ?? null, Boolean(this.order?.descending));
    setText(this.sorted, this.order ? `sorted by ${this.order.column} within this page` : "");
  }

  #total(total, exact) {
    if (this.filters.args && !exact) setText(this.count, `${count(total)} found in what was searched`);
    else setText(this.count, exact ? plural(total, "task") : `${atLeast(total, exact)} tasks`);
  }

  #settle(waiting, more) {
    const { size, end } = this.rows;
    setText(this.older, this.filters.args ? "Search further" : "Older");
    setText(this.waiting, `${atLeast(waiting, !more)} new`);
    setShown(this.waiting, waiting > 0);
    setShown(this.newer, this.pages.length > 1);
    setShown(this.older, end !== null);
    setShown(this.blank, size === 0 && end === null);
    setShown(this.pausing, size === 0 && end !== null);
    setText(this.pausing.lastElementChild, this.filters.args ? "No match in what was searched. “Search further” continues with older tasks; a type or a time narrows it." : PAUSING);
    setShown(this.rows.table, size > 0);
  }

  #accepts(task, known) {
    const { filters } = this;
    if (["status", "func_name", "queue", "source"].some((name) => filters[name] && task[name] !== filters[name])) return false;
    // The server chose this row by its full error, which the delta does not contain; the other fields do not change.
    if (known) return true;
    if (this.pages.length > 1) return false;
    const [key, ...value] = filters.tag.split(/[:=](.*)/s);
    if (key && (task.tags?.[key] === undefined || (value.length && task.tags[key] !== value[0]))) return false;
    // Changes do not say what these are about.
    if (filters.fingerprint || filters.args) return false;
    if (filters.trace_id && task.trace_id !== filters.trace_id.toLowerCase()) return false;
    if (filters.until && !(Date.parse(filters.until) > Date.parse(task.created_at))) return false;
    // What changes now has ended a moment ago.
    if (filters.ended_since && !task.end_time) return false;
    if (filters.ended_until) return false;
    if (!task.func_name.toLowerCase().startsWith(filters.func_name_prefix.toLowerCase())) return false;
    if (filters.min_duration || filters.max_duration) {
      if (LIVE.has(task.status) || typeof task.duration !== "number") return false;
      if (filters.min_duration && task.duration < inSeconds(filters.min_duration)) return false;
      if (filters.max_duration && task.duration >= inSeconds(filters.max_duration)) return false;
    }
    return has([task.error_type, task.error], filters.error) && has([task.func_name, task.error, task.task_id], filters.q);
  }

  /** Show what these filters select, and no others. */
  #filter(filters) {
    const wanted = Object.fromEntries(FILTERS.map((name) => [name, filters[name] ?? ""]));
    if (FILTERS.every((name) => wanted[name] === this.filters[name])) return;
    this.filters = wanted;
    this.pages = [null];
    this.#mark();
    this.#read();
  }

  /** The values of a key of the filter that are known, each with a note. */
  #known(key) {
    if (key === "status") return STATUSES.map((status) => [status, this.chips.get(status).number.textContent]);
    return this.values.of(key).map((value) => [value, ""]);
  }

  #mark() {
    for (const [status, chip] of this.chips) chip.element.setAttribute("aria-pressed", String(status === this.filters.status));
    setShown(this.clear, FILTERS.some((name) => this.filters[name]));
  }

  #choose(status) {
    const filters = { ...this.filters, status };
    this.input.show(filters);
    this.#filter(filters);
  }

  #chip(status) {
    const number = h("span", { class: "chip-count", text: "" });
    const element = h("button", { class: "chip", type: "button", data: { status: status || "all" }, on: { click: () => this.#choose(status) } }, h("span", { text: status || "all" }), number);
    return { element, number };
  }
}

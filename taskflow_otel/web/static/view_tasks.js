import { empty, h, icon, setShown, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { TaskRows } from "./rows.js";
import { SOURCES, STATUSES } from "./vocabulary.js";

const FIELDS = ["status", "q", "func_name", "queue", "source", "tag", "since", "until", "ended_since", "ended_until", "trace_id", "fingerprint"];
const AGES = [["", "Any time"], ["15m", "Last 15 minutes"], ["1h", "Last hour"], ["6h", "Last 6 hours"], ["24h", "Last 24 hours"], ["7d", "Last 7 days"]];
const ENDED = [["", "Ended at any time"], ...AGES.slice(1).map(([value, text]) => [value, text.replace("Last", "Ended in the last")])];
const FROM = [["", "Any source"], ...SOURCES.map((source) => [source, source[0].toUpperCase() + source.slice(1)])];
const PAGE = 100;

/** A number, with a plus if it is a lower bound. */
const atLeast = (number, exact) => `${count(number)}${exact ? "" : "+"}`;

/** The list of tasks; its filters are in the address. */
export class TasksView {
  constructor(page, root) {
    this.page = page;
    this.filters = Object.fromEntries(FIELDS.map((name) => [name, page.params.get(name) ?? ""]));
    this.rows = new TaskRows({ accepts: (task) => this.#accepts(task) });
    this.count = h("span", { class: "muted", "aria-live": "polite" });
    this.more = h("button", { class: "button", type: "button", text: "Show more", hidden: true, on: { click: () => page.attempt(() => this.#readMore()) } });
    this.blank = empty("No tasks", "Nothing matches. Remove a filter, or enqueue a task.");
    this.pausing = empty("Nothing yet", "No match among the newest tasks. “Show more” searches older ones.");
    this.blank.hidden = this.pausing.hidden = true;
    this.chips = new Map(["", ...STATUSES].map((status) => [status, this.#chip(status)]));
    this.inputs = this.#inputs();
    root.append(
      h("div", { class: "view-head" }, h("h1", { text: "Tasks" }), this.count),
      h("div", { class: "chips", role: "group", "aria-label": "Status" }, [...this.chips.values()].map((chip) => chip.element)),
      h("form", { class: "filters", role: "search", on: { submit: (event) => event.preventDefault() } }, this.inputs),
      h("section", { class: "card flush" }, this.rows.table, this.blank, this.pausing),
      h("div", { class: "after" }, this.more, h("span", { class: "keys" }, h("kbd", { text: "/" }), " search ", h("kbd", { text: "j" }), h("kbd", { text: "k" }), " move ", h("kbd", { text: "Enter" }), " open")),
    );
    this.#mark();
  }

  close() {
    this.rows.close();
    clearTimeout(this.typing);
  }

  async refresh() {
    const reading = (this.reading = Symbol("reading"));
    const { tasks, total, exact, next } = await this.page.api.tasks({ ...this.filters, limit: PAGE });
    // A slower answer to older filters must not replace a newer one.
    if (reading !== this.reading) return;
    this.next = next;
    this.rows.replace(tasks, next === null);
    this.#total(total, exact);
    this.#settle();
    await this.poll();
  }

  async poll() {
    const stats = await this.page.api.get("stats", { ...this.filters, status: "" });
    for (const [status, chip] of this.chips) setText(chip.number, atLeast(stats[status || "total"], stats.exact));
    // If the total is a lower bound, the one of the list is better.
    if (stats.exact) this.#total(stats[this.filters.status || "total"], true);
  }

  change(tasks) {
    for (const delta of tasks.values()) this.rows.change(delta);
    this.#settle();
  }

  async #readMore() {
    const { tasks, next } = await this.page.api.tasks({ ...this.filters, limit: PAGE, cursor: this.next });
    this.next = next;
    this.rows.limit = Math.max(this.rows.limit, this.rows.size + tasks.length);
    this.rows.append(tasks, next === null);
    this.#settle();
  }

  #total(total, exact) {
    setText(this.count, exact ? plural(total, "task") : `${atLeast(total, exact)} tasks`);
  }

  #settle() {
    setShown(this.more, Boolean(this.next));
    setShown(this.blank, this.rows.size === 0 && !this.next);
    setShown(this.pausing, this.rows.size === 0 && Boolean(this.next));
    setShown(this.rows.table, this.rows.size > 0);
  }

  #accepts(task, known) {
    const { filters } = this;
    if (["status", "func_name", "queue", "source"].some((name) => filters[name] && task[name] !== filters[name])) return false;
    // The server chose this row by its full error, which the delta does not contain; the other fields do not change.
    if (known) return true;
    const [key, ...value] = filters.tag.split(/[:=](.*)/s);
    if (key && (task.tags?.[key] === undefined || (value.length && task.tags[key] !== value[0]))) return false;
    if (filters.fingerprint) return false;
    if (filters.trace_id && task.trace_id !== filters.trace_id.toLowerCase()) return false;
    if (filters.until && !(Date.parse(filters.until) > Date.parse(task.created_at))) return false;
    // What changes now has ended a moment ago.
    if (filters.ended_since && !task.end_time) return false;
    if (filters.ended_until) return false;
    const text = filters.q.toLowerCase();
    return !text || [task.func_name, task.error, task.task_id].some((part) => part?.toLowerCase().includes(text));
  }

  #set(name, value) {
    this.filters[name] = value;
    this.page.remember({ view: "tasks", ...this.filters });
    this.#mark();
    this.page.refresh();
  }

  #mark() {
    for (const [status, chip] of this.chips) chip.element.setAttribute("aria-pressed", String(status === this.filters.status));
    setShown(this.clear, FIELDS.some((name) => this.filters[name]));
  }

  #chip(status) {
    const number = h("span", { class: "chip-count", text: "" });
    const element = h("button", { class: "chip", type: "button", data: { status: status || "all" }, on: { click: () => this.#set("status", status) } }, h("span", { text: status || "all" }), number);
    return { element, number };
  }

  #inputs() {
    const typed = (name, label, type = "text") =>
      h("input", {
        type,
        name,
        placeholder: label,
        "aria-label": label,
        value: this.filters[name],
        spellcheck: "false",
        autocomplete: "off",
        on: {
          input: (event) => {
            clearTimeout(this.typing);
            this.typing = setTimeout(() => this.#set(name, event.target.value.trim()), 250);
          },
        },
      });
    const chosen = (name, label, options) => {
      const known = options.some(([value]) => value === this.filters[name]);
      const all = known ? options : [...options, [this.filters[name], this.filters[name]]];
      return h(
        "select",
        { name, "aria-label": label, on: { change: (event) => this.#set(name, event.target.value) } },
        all.map(([value, text]) => h("option", { value, text, selected: value === this.filters[name] })),
      );
    };
    this.clear = h("button", { class: "button small ghost", type: "button", text: "Clear", on: { click: () => this.page.open({ view: "tasks" }) } });
    return [
      h("label", { class: "search" }, icon("search"), typed("q", "Search name, error or id", "search")),
      typed("func_name", "Task name"),
      typed("queue", "Queue"),
      typed("tag", "Tag, as key:value"),
      chosen("source", "Source", FROM),
      chosen("since", "Created", AGES),
      ...(this.filters.ended_since ? [chosen("ended_since", "Ended", ENDED)] : []),
      ...(this.filters.fingerprint ? [chosen("fingerprint", "Failure", [["", "Any failure"], [this.filters.fingerprint, "One group of failures"]])] : []),
      this.clear,
    ];
  }
}

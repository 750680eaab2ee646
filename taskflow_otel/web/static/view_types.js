// The types of tasks as a table: how many finish, how many of them fail, how long they run and wait.

import { sparkline } from "./chart.js";
import { empty, h, redraw, setShown, setText } from "./dom.js";
import { change, clock, count, duration, plural, share } from "./format.js";
import { stillWanted } from "./reading.js";

const WINDOWS = ["1h", "24h"];
/** Below, a comparison says more of chance than of the type. */
const FEWEST = 10;
const NOTABLE = 0.5;

/** The columns: title, what is sorted by, and what the title says. */
const COLUMNS = [
  { key: "func_name", title: "Type" },
  { key: "finished", title: "Finished" },
  { key: "failure_share", title: "Failures", hint: "Share of failures among successes and failures" },
  { key: "run_p50_seconds", title: "p50", hint: "Half of the tasks ran at most this long" },
  { key: "run_p95_seconds", title: "p95", hint: "95 % of the tasks ran at most this long" },
  { key: "run_p99_seconds", title: "p99", hint: "99 % of the tasks ran at most this long" },
  { key: "wait_p95_seconds", title: "Wait p95", hint: "From enqueueing to the first start, without a delay that was asked for" },
  { key: "run_share", title: "Run time", hint: "Share of the run time of all types" },
  { key: "change", title: "Last week", hint: "How many more finished in the last whole hour than in the same hour a week before" },
];

/** The table. */
export class TypesView {
  constructor(page, root) {
    this.page = page;
    this.window = WINDOWS.find((name) => name === page.params.get("window")) ?? WINDOWS[0];
    const wanted = page.params.get("sort") ?? "";
    this.sort = COLUMNS.some(({ key }) => key === wanted.replace("-", "")) ? wanted : "-run_share";
    this.note = h("span", { class: "muted", role: "status" });
    this.body = h("tbody");
    this.heads = COLUMNS.map((column) => this.#head(column));
    this.blank = empty("No types", "A type appears when it is declared, or when a task of it has finished.");
    this.blank.hidden = true;
    this.table = h("table", { class: "plain types" }, h("thead", {}, h("tr", {}, this.heads)), this.body);
    this.switch = h(
      "div",
      { class: "segmented", role: "group", "aria-label": "Window" },
      WINDOWS.map((name) => h("button", { type: "button", text: name, "aria-pressed": String(name === this.window), on: { click: () => this.#choose(name) } })),
    );
    root.append(h("div", { class: "view-head" }, h("h1", { text: "Types" }), this.note, this.switch), h("section", { class: "card flush" }, h("div", { class: "table-scroll" }, this.table), this.blank));
  }

  async refresh() {
    const found = await stillWanted(() => this.window, () => this.page.api.get("types", { window: this.window }));
    if (found === null) return;
    this.found = found;
    this.#draw();
  }

  poll() {
    return this.refresh();
  }

  #draw() {
    const { types, total } = this.found;
    setText(this.note, total > types.length ? `${count(types.length)} of ${plural(total, "type")}` : plural(total, "type"));
    const down = this.sort.startsWith("-");
    const key = this.sort.replace("-", "");
    this.heads.forEach((head, index) => {
      if (COLUMNS[index].key === key) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const rows = [...types].sort((one, other) => (down ? -1 : 1) * compared(one[key], other[key]));
    redraw(this.body, rows.map((type) => row(type, this.window)));
    setShown(this.blank, types.length === 0);
    setShown(this.table, types.length > 0);
  }

  #head(/** @type {{key: string, title: string, hint?: string}} */ { key, title, hint }) {
    const click = () => {
      // Numbers begin with the greatest.
      const first = key === "func_name" ? key : `-${key}`;
      this.sort = this.sort === first ? (first === key ? `-${key}` : key) : first;
      this.#remember();
      this.#draw();
    };
    return h("th", { scope: "col", class: key === "func_name" ? null : "right" }, h("button", { class: "sort", type: "button", title: hint, text: title, on: { click } }));
  }

  #choose(name) {
    this.window = name;
    for (const button of this.switch.children) button.setAttribute("aria-pressed", String(button.textContent === name));
    this.#remember();
    this.page.refresh();
  }

  #remember() {
    this.page.remember({ view: "types", window: this.window === WINDOWS[0] ? "" : this.window, sort: this.sort === "-run_share" ? "" : this.sort });
  }
}

/** What is not known comes last in both directions of a number, and first in that of a name. */
function compared(one, other) {
  if (typeof one === "string") return one.localeCompare(other);
  return (one ?? -Infinity) - (other ?? -Infinity) || 0;
}

function row(type, window) {
  const cell = (label, text, props = {}) => h("td", { class: "right num", data: { label }, text, ...props });
  return h(
    "tr",
    { data: { key: type.func_name } },
    h(
      "td",
      { class: "type-name" },
      h("a", { class: "row-link", href: `?${new URLSearchParams({ view: "type", name: type.func_name, window })}`, text: type.func_name }),
      type.is_declared ? null : h("span", { class: "tag", text: "not declared here", title: "The instance that answers cannot run it." }),
    ),
    h("td", { class: "right num", data: { label: "Finished" } }, h("span", { class: "type-spark" }, type.finished ? sparkline(type.points) : null), h("span", { text: count(type.finished) })),
    cell("Failures", share(type.failure_share), { class: `right num ${type.failure_share >= 0.05 ? "bad" : ""}` }),
    cell("p50", duration(type.run_p50_seconds)),
    cell("p95", duration(type.run_p95_seconds)),
    cell("p99", duration(type.run_p99_seconds)),
    cell("Wait p95", duration(type.wait_p95_seconds)),
    h("td", { class: "right num", data: { label: "Run time" } }, meter(type.run_share), h("span", { text: share(type.run_share) })),
    h("td", { class: `right num ${notable(type) ? "notable" : ""}`, data: { label: "Last week" }, text: change(type.change), title: compare(type) }),
  );
}

function meter(part) {
  const bar = h("i");
  bar.style.width = `${(part ?? 0) * 100}%`;
  return h("span", { class: "meter", "aria-hidden": "true" }, bar);
}

function notable(type) {
  return type.change !== null && Math.max(type.last_hour.finished, type.week_before.finished) >= FEWEST && Math.abs(type.change) >= NOTABLE;
}

/** The last whole hour beside the same one a week before, as a sentence. */
export function compare(type) {
  const { last_hour: hour, week_before: before } = type;
  if (hour === null) return "Nothing is known of the last whole hour.";
  const end = new Date(Date.parse(hour.since) + 3600000).toISOString();
  const now = `${clock(hour.since)} to ${clock(end)}: ${count(hour.finished)} finished`;
  if (before === null) return `${now}. The figures do not reach back to the same hour a week before.`;
  const p95 = hour.run_p95_seconds === null ? "" : `, p95 ${duration(hour.run_p95_seconds)}`;
  const was = before.run_p95_seconds === null ? "" : `, p95 ${duration(before.run_p95_seconds)}`;
  return `${now}${p95}. In the same hour a week before: ${count(before.finished)} finished${was}.`;
}

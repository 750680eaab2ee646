import { empty, h, redraw, setShown, tableRow } from "./dom.js";
import { clock, full } from "./format.js";
import { stillWanted } from "./reading.js";
import { operationLink } from "./view_operations.js";

const COLUMNS = ["Time", "Who", "Action", "About", "Outcome", "Reason"];
const PAGE = 100;
const STATUS = { done: "success", refused: "cancelled", failed: "failed" };

const OUTCOMES = [
  ["", "Any outcome"],
  ["done", "Done"],
  ["refused", "Refused"],
  ["failed", "Failed"],
];
const ACTIONS = ["retry-task", "cancel-task", "ask-for-stack", "bulk-retry", "retry-failed", "bulk-cancel", "delete-history", "pause-queue", "resume-queue", "configure-queue", "run-schedule", "pause-schedule", "resume-schedule", "ignore-failure", "show-failure", "tick", "login", "logout", "token-login", "session-login"];
const FIELDS = ["actor", "action", "outcome", "task_id", "since"];

/** Who did what, on all instances, the newest first; the filters are in the address. */
export class AuditView {
  constructor(page, root) {
    this.page = page;
    this.filters = Object.fromEntries(FIELDS.map((name) => [name, page.params.get(name) ?? ""]));
    this.body = h("tbody");
    this.blank = empty("Nothing yet", "Retries, cancellations, changes of queues and logins appear here.");
    this.blank.hidden = true;
    this.more = h("button", { class: "button", type: "button", text: "Show more", hidden: true, on: { click: () => page.attempt(() => this.#readMore()) } });
    this.table = h(
      "table",
      { class: "plain" },
      h("thead", {}, h("tr", {}, COLUMNS.map((text) => h("th", { scope: "col", text })))),
      this.body,
    );
    root.append(
      h("div", { class: "view-head" }, h("h1", { text: "Audit" }), h("a", { class: "button", href: "?view=operations", text: "Bulk operations" })),
      h("form", { class: "filters", role: "search", on: { submit: (event) => event.preventDefault() } }, this.#inputs()),
      h("section", { class: "card flush" }, this.table, this.blank),
      this.more,
    );
  }

  close() {
    clearTimeout(this.typing);
  }

  async refresh() {
    const found = await stillWanted(() => JSON.stringify(this.filters), () => this.page.api.list("audit", { ...this.filters, limit: PAGE }));
    if (found === null) return;
    const { items, next } = found;
    redraw(this.body, items.map(row));
    setShown(this.table, items.length > 0);
    setShown(this.blank, items.length === 0);
    this.#continueAt(next);
  }

  poll() {
    // Reading again would hide the pages that were added.
    return this.body.children.length > PAGE ? null : this.refresh();
  }

  async #readMore() {
    const { items, next } = await this.page.api.list("audit", { ...this.filters, limit: PAGE, cursor: this.next });
    this.body.append(...items.map(row));
    this.#continueAt(next);
  }

  #set(name, value) {
    this.filters[name] = value;
    this.page.remember({ view: "audit", ...this.filters });
    this.page.refresh();
  }

  #inputs() {
    const typed = (name, label) => {
      const change = (event) => {
        clearTimeout(this.typing);
        this.typing = setTimeout(() => this.#set(name, event.target.value.trim()), 250);
      };
      return h("input", { type: "text", name, placeholder: label, "aria-label": label, value: this.filters[name], spellcheck: "false", autocomplete: "off", on: { input: change } });
    };
    const choice = (name, label, options) =>
      h(
        "select",
        { name, "aria-label": label, on: { change: (event) => this.#set(name, event.target.value) } },
        options.map(([value, text]) => h("option", { value, text, selected: value === this.filters[name] })),
      );
    const actions = ["", ...ACTIONS].map((name) => [name, name || "Any action"]);
    const since = [["", "Any time"], ["1h", "Last hour"], ["24h", "Last 24 hours"], ["7d", "Last 7 days"]];
    return [typed("actor", "User"), choice("action", "Action", actions), choice("outcome", "Outcome", OUTCOMES), typed("task_id", "Task id"), choice("since", "Time", since)];
  }

  #continueAt(next) {
    this.next = next;
    setShown(this.more, Boolean(next));
  }
}

function row(entry) {
  const times = entry.times > 1 ? h("span", { class: "muted", text: ` × ${entry.times}` }) : null;
  const who = h("td", {}, h("strong", { text: entry.actor ?? "anonymous" }), h("span", { class: "muted", text: ` ${entry.client ?? ""}` }));
  return tableRow(
    COLUMNS,
    { data: { key: entry.entry_id } },
    h("td", { class: "mono", text: clock(entry.at), title: full(entry.at) }),
    who,
    h("td", { text: entry.action, title: entry.route }),
    h("td", {}, about(entry)),
    h("td", {}, h("span", { class: "pill", data: { status: STATUS[entry.outcome] ?? "pending" }, text: entry.outcome }), times, entry.detail ? h("span", { class: "muted audit-detail", text: entry.detail }) : null),
    h("td", { class: "clip", text: entry.reason ?? "", title: entry.reason }),
  );
}

function about(entry) {
  if (entry.operation_id) return h("a", { class: "mono clip", href: operationLink(entry.operation_id), text: entry.target ?? "a bulk operation", title: entry.target });
  if (!entry.task_id) return h("span", { class: "mono clip", text: entry.target ?? "", title: entry.target });
  return h("a", { class: "mono", href: `?${new URLSearchParams({ view: "task", id: entry.task_id })}`, text: entry.task_id.slice(-8), title: entry.task_id });
}

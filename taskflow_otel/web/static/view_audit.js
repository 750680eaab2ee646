import { empty, h, redraw, setShown } from "./dom.js";
import { clock, full } from "./format.js";

const COLUMNS = ["Time", "Who", "Action", "About", "Outcome", "Reason"];
const PAGE = 100;
const STATUS = { done: "success", refused: "cancelled", failed: "failed" };

/** Who did what, on all instances, the newest first. */
export class AuditView {
  constructor(page, root) {
    this.page = page;
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
    root.append(h("div", { class: "view-head" }, h("h1", { text: "Audit" })), h("section", { class: "card flush" }, this.table, this.blank), this.more);
  }

  async refresh() {
    const { items, next } = await this.page.api.list("audit", { limit: PAGE });
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
    const { items, next } = await this.page.api.list("audit", { limit: PAGE, cursor: this.next });
    this.body.append(...items.map(row));
    this.#continueAt(next);
  }

  #continueAt(next) {
    this.next = next;
    setShown(this.more, Boolean(next));
  }
}

function row(entry) {
  const times = entry.times > 1 ? h("span", { class: "muted", text: ` × ${entry.times}` }) : null;
  const who = h("td", {}, h("strong", { text: entry.actor ?? "anonymous" }), h("span", { class: "muted", text: ` ${entry.client ?? ""}` }));
  return h(
    "tr",
    { data: { key: entry.entry_id } },
    h("td", { class: "mono", text: clock(entry.at), title: full(entry.at) }),
    who,
    h("td", { text: entry.action, title: entry.route }),
    h("td", {}, about(entry)),
    h("td", {}, h("span", { class: "pill", data: { status: STATUS[entry.outcome] ?? "pending" }, text: entry.outcome, title: entry.detail }), times),
    h("td", { class: "clip", text: entry.reason ?? "", title: entry.reason }),
  );
}

function about(entry) {
  if (!entry.task_id) return h("span", { class: "mono clip", text: entry.target ?? "", title: entry.target });
  return h("a", { class: "mono", href: `?${new URLSearchParams({ view: "task", id: entry.task_id })}`, text: entry.task_id.slice(-8), title: entry.task_id });
}

// Work on many tasks as records: who asked for it and why, how far it is, and the result for each task.

import { empty, h, pill, redraw, setShown, setText, tableRow } from "./dom.js";
import { ago, clock, count, full, plural, shortId } from "./format.js";
import { stillWanted } from "./reading.js";

const PAGE = 50;
const RESULTS = 200;
const SOON = 1000;
const KINDS = { retry: "Retry", cancel: "Cancel", delete: "Delete" };
const TONES = { running: "running", done: "success", failed: "failed", refused: "cancelled" };
const RESULT_COLUMNS = ["Task", "Result", "New task", "Why not"];
const COLUMNS = ["When", "Who", "What", "Progress", "Result", "Reason"];

/** Where an operation is shown; null without one. */
export function operationLink(id) {
  return id ? `?${new URLSearchParams({ view: "operation", id })}` : null;
}

/** What an operation is called. */
export function titleOf(operation) {
  return `${KINDS[operation.kind] ?? operation.kind} ${operation.total || !operation.ended_at ? plural(operation.total, "task") : "no task"}`;
}

/** The bulk operations of all instances, the newest first. */
export class OperationsView {
  constructor(page, root) {
    this.page = page;
    this.body = h("tbody");
    this.blank = empty("Nothing yet", "Retries, cancellations and deletions of many tasks appear here.");
    this.blank.hidden = true;
    this.more = h("button", { class: "button", type: "button", text: "Show more", hidden: true, on: { click: () => page.attempt(() => this.#read(this.next)) } });
    this.table = h("table", { class: "plain operations" }, h("thead", {}, h("tr", {}, COLUMNS.map((text) => h("th", { scope: "col", text })))), this.body);
    root.append(h("a", { class: "back", href: "?view=audit", text: "Audit" }), h("div", { class: "view-head" }, h("h1", { text: "Bulk operations" })), h("section", { class: "card flush" }, this.table, this.blank), this.more);
  }

  async refresh() {
    await this.#read();
  }

  poll() {
    // Reading again would hide the pages that were added.
    return this.body.children.length > PAGE ? null : this.refresh();
  }

  async #read(cursor) {
    const { items, next } = await this.page.api.list("operations", { limit: PAGE, cursor });
    this.next = next;
    if (cursor) this.body.append(...items.map(row));
    else redraw(this.body, items.map(row));
    setShown(this.more, Boolean(next));
    setShown(this.table, this.body.children.length > 0);
    setShown(this.blank, this.body.children.length === 0);
  }
}

function row(operation) {
  const link = h("a", { class: "row-link", href: operationLink(operation.operation_id), text: titleOf(operation) });
  return tableRow(
    COLUMNS,
    { data: { key: operation.operation_id } },
    h("td", { class: "mono", text: clock(operation.created_at), title: full(operation.created_at) }),
    h("td", {}, h("strong", { text: operation.actor ?? "anonymous" })),
    h("td", {}, link),
    h("td", {}, meter(operation)),
    h("td", {}, pillOf(operation.status), h("span", { class: "muted", text: ` ${said(operation)}` })),
    h("td", { class: "clip", text: operation.reason ?? "", title: operation.reason }),
  );
}

function pillOf(status) {
  const element = pill(status);
  element.dataset.status = TONES[status] ?? "pending";
  return element;
}

/** How far it is, as a bar. */
function meter(operation) {
  const part = operation.total ? operation.done / operation.total : Number(Boolean(operation.ended_at));
  const fill = h("i");
  fill.style.width = `${part * 100}%`;
  const label = `${count(operation.done)} of ${count(operation.total)}`;
  return h("span", { class: "operation-progress" }, h("span", { class: "meter big", role: "progressbar", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": String(Math.max(1, operation.total)), "aria-valuenow": String(operation.done) }, fill), h("span", { class: "muted mono", text: label }));
}

function said(operation) {
  const rest = operation.done - operation.succeeded;
  return `${count(operation.succeeded)} done${rest ? `, ${count(rest)} not` : ""}`;
}

/** One operation: its progress, live, and what came of each of its tasks. */
export class OperationView {
  constructor(page, root) {
    this.page = page;
    this.id = page.params.get("id") ?? "";
    this.head = h("div", { class: "operation-head" });
    this.body = h("tbody");
    this.blank = empty("No task", "No task matched when it was asked for.");
    this.blank.hidden = true;
    this.cursors = [null];
    this.back = h("button", { class: "button small", type: "button", text: "Previous", on: { click: () => this.#turn(-1) } });
    this.onward = h("button", { class: "button small", type: "button", text: "Next", on: { click: () => this.#turn(1) } });
    this.pager = h("div", { class: "pager", hidden: true }, this.back, this.onward);
    this.table = h("table", { class: "plain" }, h("thead", {}, h("tr", {}, RESULT_COLUMNS.map((text) => h("th", { scope: "col", text })))), this.body);
    root.append(h("a", { class: "back", href: "?view=operations", text: "Bulk operations" }), this.head, h("section", { class: "card flush" }, this.table, this.blank), this.pager);
  }

  close() {
    clearTimeout(this.soon);
    this.closed = true;
  }

  async refresh() {
    clearTimeout(this.soon);
    const address = `operations/${encodeURIComponent(this.id)}`;
    const cursor = this.cursors.at(-1);
    const read = async () => [await this.page.api.get(address), await this.page.api.list(`${address}/results`, { limit: RESULTS, cursor })];
    const found = await stillWanted(() => String(this.cursors.at(-1)), read);
    if (found === null || this.closed) return;
    const [operation, { items, next }] = found;
    this.next = next;
    this.#draw(operation);
    redraw(this.body, items.map((item) => result(item, operation.kind)));
    setShown(this.table, items.length > 0);
    setShown(this.blank, items.length === 0 && Boolean(operation.ended_at));
    setShown(this.pager, this.cursors.length > 1 || Boolean(next));
    this.back.disabled = this.cursors.length === 1;
    this.onward.disabled = !next;
    if (!operation.ended_at) this.soon = setTimeout(() => this.page.refresh(), SOON);
  }

  #turn(step) {
    if (step > 0) this.cursors.push(this.next);
    else this.cursors.pop();
    this.page.refresh();
  }

  #draw(operation) {
    const ended = operation.ended_at ? `ended ${ago(operation.ended_at)}` : "works now";
    const by = `Asked for by ${operation.actor ?? "someone (no login)"} ${ago(operation.created_at)}${operation.reason ? `: ${operation.reason}` : ""}`;
    const words = h("p", { class: "sentence" });
    setText(words, `${by} · ${said(operation)} · ${ended}`);
    words.title = full(operation.created_at);
    const filter = operation.filter ? h("a", { class: "tag", href: `?view=tasks&${operation.filter}`, text: operation.filter }) : null;
    redraw(
      this.head,
      [
        h("div", { class: "view-head" }, h("h1", { text: titleOf(operation) }), pillOf(operation.status)),
        words,
        meter(operation),
        filter ? h("p", {}, h("span", { class: "muted", text: "Selected by " }), filter) : null,
        operation.error ? h("div", { class: "banner bad", role: "alert", text: operation.error }) : null,
      ],
    );
  }
}

function result(item, kind) {
  const link = (id) => h("a", { class: "mono", href: `?${new URLSearchParams({ view: "task", id })}`, text: shortId(id), title: id });
  return tableRow(RESULT_COLUMNS, { data: { key: item.task_id } }, h("td", {}, kind === "delete" ? h("span", { class: "mono", text: shortId(item.task_id), title: item.task_id }) : link(item.task_id)), h("td", {}, item.outcome ? pillOf(item.outcome) : h("span", { class: "muted", text: "not yet" })), h("td", {}, item.new_task_id ? link(item.new_task_id) : null), h("td", { text: item.detail ?? "" }));
}

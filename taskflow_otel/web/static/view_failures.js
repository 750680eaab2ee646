import { confirmed, empty, h, icon, pill, setShown, setText } from "./dom.js";
import { ago, count, full, plural } from "./format.js";
import { reasonText } from "./rows.js";

const WINDOWS = ["1h", "6h", "24h", "7d"];
const SETTLE = 1500;
const RETRY_AT_ONCE = 5000;
const WRONG = new Set(["failed", "interrupted", "rejected"]);

/** What went wrong, as problems: grouped by similar errors. */
export class FailuresView {
  constructor(page, root) {
    this.page = page;
    this.since = page.params.get("since") ?? "24h";
    this.note = h("span", { class: "muted" });
    this.groups = h("div", { class: "groups" });
    this.blank = empty("No failures", "Nothing has failed in this window.");
    this.blank.hidden = true;
    this.all = h("button", { class: "button", type: "button", hidden: true, on: { click: () => this.#retryAll() } }, icon("retry"), "Retry all");
    this.switch = h(
      "div",
      { class: "segmented", role: "group", "aria-label": "Window" },
      WINDOWS.map((name) => h("button", { type: "button", text: name, "aria-pressed": String(name === this.since), on: { click: () => this.#choose(name) } })),
    );
    root.append(h("div", { class: "view-head" }, h("h1", { text: "Failures" }), this.note, this.all, this.switch), this.groups, this.blank);
  }

  close() {
    clearTimeout(this.soon);
  }

  async refresh() {
    const found = await this.page.api.get("failures", { ended_since: this.since });
    this.groups.replaceChildren(...found.groups.map((group) => this.#card(group)));
    const waiting = found.groups.reduce((sum, group) => sum + group.retryable.length, 0);
    setText(this.note, found.scanned ? `${plural(found.scanned, "problem")}${found.truncated ? " (the latest)" : ""} in ${plural(found.groups.length, "group")}` : "");
    setShown(this.blank, found.groups.length === 0);
    setShown(this.all, this.page.session.can_act && waiting > 0);
    this.open = found.groups.flatMap((group) => group.retryable);
  }

  change(tasks) {
    if (this.soon || ![...tasks.values()].some((delta) => WRONG.has(delta.status))) return;
    // Many failures at once cause only one reading.
    this.soon = setTimeout(() => {
      this.soon = null;
      this.page.refresh();
    }, SETTLE);
  }

  #card(group) {
    const single = group.func_names.length === 1 ? { func_name: group.func_names[0] } : {};
    const list = `?${new URLSearchParams({ view: "tasks", status: group.status, ended_since: this.since, ...single })}`;
    const retry = group.retryable.length
      ? h("button", { class: "button", type: "button", on: { click: () => this.#retry(group) } }, icon("retry"), `Retry ${count(group.retryable.length)}`)
      : h("span", { class: "muted", text: "all retried" });
    return h(
      "article",
      { class: "card group" },
      h("div", { class: "group-count" }, h("strong", { text: count(group.count) }), h("small", { text: group.count === 1 ? "time" : "times" })),
      h(
        "div",
        { class: "group-what" },
        h("div", { class: "group-title" }, h("h2", { text: titleOf(group) }), group.status === "failed" ? null : pill(group.status)),
        group.error ? h("p", { class: "mono group-error", text: group.error }) : null,
        !group.example || group.example === group.error ? null : h("p", { class: "mono group-example", text: `e.g. ${group.example}`, title: group.example }),
        h(
          "p",
          { class: "muted" },
          group.func_names.map((name) => h("span", { class: "tag", text: name })),
          h("span", { text: `last ${ago(group.last_at)}`, title: full(group.last_at) }),
          group.count > 1 ? h("span", { text: ` · first ${ago(group.first_at)}`, title: full(group.first_at) }) : null,
        ),
      ),
      h("div", { class: "actions" }, h("a", { class: "button ghost", href: list, text: "Tasks" }), this.page.session.can_act ? retry : null),
    );
  }

  async #retry(group) {
    const number = group.retryable.length;
    if (number > 1 && !(await confirmed(`Retry ${plural(number, "task")}?`, "Each is enqueued again as a new task; the failed ones stay in the history.", "Retry them"))) return;
    await this.#run(() => this.page.api.act("POST", "bulk-retry", { body: { task_ids: group.retryable.slice(0, RETRY_AT_ONCE) } }));
  }

  async #retryAll() {
    const ids = this.open.slice(0, RETRY_AT_ONCE);
    if (!(await confirmed(`Retry ${plural(ids.length, "task")}?`, "All tasks of the groups below that were not retried yet are enqueued again as new tasks.", "Retry all"))) return;
    await this.#run(() => this.page.api.act("POST", "bulk-retry", { body: { task_ids: ids } }));
  }

  async #run(action) {
    const said = (out) => {
      const skipped = out.skipped.length ? `, ${out.skipped.length} skipped: ${out.skipped[0].reason}` : "";
      if (out.status === "running") return `${plural(out.matched, "task")} are being enqueued again`;
      return `${plural(out.retried.length, "task")} enqueued again${skipped}${out.more ? "; there are more" : ""}`;
    };
    if (await this.page.attempt(action, said)) await this.page.refresh();
  }

  #choose(name) {
    this.since = name;
    for (const button of this.switch.children) button.setAttribute("aria-pressed", String(button.textContent === name));
    this.page.remember({ view: "failures", since: name });
    this.page.refresh();
  }
}

function titleOf(group) {
  if (group.status !== "failed" && group.reason) {
    const reason = reasonText(group.reason);
    return reason[0].toUpperCase() + reason.slice(1);
  }
  return group.error_type ?? "Error";
}

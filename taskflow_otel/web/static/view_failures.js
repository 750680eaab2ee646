// What went wrong, as a worklist: groups at the left, one of them at the right.

import { sparkline } from "./chart.js";
import { empty, h, icon, pill, redraw, setShown, setText } from "./dom.js";
import { FailureDetail, titleOf } from "./failure.js";
import { ago, count, full, plural } from "./format.js";
import { stillWanted } from "./reading.js";

const WINDOWS = ["1h", "6h", "24h", "7d"];
const SETTLE = 1500;
const PAGE = 100;
const WRONG = new Set(["failed", "interrupted", "rejected"]);
const ORDERS = [
  ["last", "Latest first"],
  ["open", "Most open"],
  ["count", "Most failures"],
  ["recent", "Most in the last hour"],
  ["appeared", "Newest kind first"],
];
const STATES = [
  ["", "Any state"],
  ["failed", "Failed"],
  ["interrupted", "Interrupted"],
  ["rejected", "Rejected"],
];
const IGNORED = [
  ["false", "Not ignored"],
  ["true", "Ignored"],
  ["", "All groups"],
];
export const TRENDS = {
  new: "New: its first failure that is stored was within the last hour.",
  rising: "Rising: at least five failures within the last hour, more than twice as many as in an average hour of the day before.",
};

/** The worklist. */
export class FailuresView {
  constructor(page, root) {
    this.page = page;
    const given = (name, otherwise = "") => page.params.get(name) ?? otherwise;
    this.filters = { since: given("since", "24h"), q: given("q"), func_name: given("func_name"), status: given("status"), order: given("order", "last"), show_ignored: given("show_ignored", "false") };
    this.chosen = given("fingerprint") || null;
    this.cursors = [null];
    this.note = h("span", { class: "muted", role: "status" });
    this.list = h("ol", { class: "groups", "aria-label": "Groups of failures" });
    this.blank = empty("No failures", "Nothing has failed in this window.");
    this.blank.hidden = true;
    this.back = h("button", { class: "button small", type: "button", text: "Previous", on: { click: () => this.#turn(-1) } });
    this.next = h("button", { class: "button small", type: "button", text: "Next", on: { click: () => this.#turn(1) } });
    this.pager = h("div", { class: "pager", hidden: true }, this.back, this.next);
    this.detail = new FailureDetail(page, () => this.#acted());
    this.switch = h(
      "div",
      { class: "segmented", role: "group", "aria-label": "Window" },
      WINDOWS.map((name) => h("button", { type: "button", text: name, "aria-pressed": String(name === this.filters.since), on: { click: () => this.#set("since", name) } })),
    );
    root.append(
      h("div", { class: "view-head" }, h("h1", { text: "Failures" }), this.note, this.switch),
      h("div", { class: "filters" }, this.#inputs()),
      h("div", { class: "worklist" }, h("div", { class: "worklist-list" }, this.list, this.blank, this.pager), this.detail.element),
    );
  }

  close() {
    clearTimeout(this.soon);
    clearTimeout(this.later);
    clearTimeout(this.typing);
    this.detail.close();
  }

  async refresh() {
    const { since, ...rest } = this.filters;
    const wanted = { ended_since: since, ...rest, limit: PAGE, cursor: this.cursors.at(-1) };
    const found = await stillWanted(() => JSON.stringify([this.filters, this.cursors.at(-1)]), () => this.page.api.get("failures", wanted));
    if (found === null) return;
    this.found = found;
    const atLeast = found.exact ? "" : "at least ";
    setText(this.note, found.total ? `${plural(found.total, "group")}, ${atLeast}${count(found.open)} open` : "");
    setShown(this.blank, found.groups.length === 0);
    setShown(this.pager, this.cursors.length > 1 || Boolean(found.next_cursor));
    this.back.disabled = this.cursors.length === 1;
    this.next.disabled = !found.next_cursor;
    if (this.chosen === null || (!this.page.params.get("fingerprint") && !found.groups.some((group) => group.fingerprint === this.chosen))) this.chosen = found.groups[0]?.fingerprint ?? null;
    redraw(this.list, found.groups.map((group) => this.#row(group)));
    await this.detail.show(this.chosen, since);
  }

  poll() {
    // How long ago, and what rises, change without an event.
    return this.refresh();
  }

  /** Show what an action has done. The server may count a second later, and instances do so each by itself. */
  async #acted() {
    clearTimeout(this.later);
    this.later = setTimeout(() => this.page.refresh(), SETTLE);
    await this.page.refresh();
  }

  change(tasks) {
    if (this.soon || ![...tasks.values()].some((delta) => WRONG.has(delta.status))) return;
    // Many failures at once cause only one reading.
    this.soon = setTimeout(() => {
      this.soon = null;
      this.page.refresh();
    }, SETTLE);
  }

  #row(group) {
    const chosen = group.fingerprint === this.chosen;
    return h(
      "li",
      {},
      h(
        "a",
        {
          class: "group row-link",
          href: `?${new URLSearchParams({ view: "failures", ...this.#shown(), fingerprint: group.fingerprint })}`,
          "aria-current": chosen ? "true" : null,
          data: { key: group.fingerprint, fingerprint: group.fingerprint },
          on: { click: (event) => this.#choose(event, group.fingerprint) },
        },
        h("span", { class: "group-spark" }, group.points.length ? sparkline(group.points) : null),
        h(
          "span",
          { class: "group-what" },
          h("span", { class: "group-title" }, h("strong", { text: titleOf(group) }), group.status === "failed" ? null : pill(group.status), group.trend ? h("span", { class: `badge ${group.trend}`, text: group.trend, title: TRENDS[group.trend] }) : null, group.ignored ? h("span", { class: "badge", text: "ignored" }) : null),
          h("span", { class: "group-error", text: group.error, title: group.example }),
          h("span", { class: "muted group-name", text: group.func_name }),
        ),
        h(
          "span",
          { class: "group-numbers" },
          h("span", { title: "Not retried yet, and all" }, h("strong", { class: group.open ? "open" : null, text: count(group.open) }), ` / ${count(group.count)}`),
          h("span", { class: "muted", text: ago(group.last_at), title: full(group.last_at) }),
        ),
      ),
    );
  }

  #choose(event, fingerprint) {
    if (event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    this.chosen = fingerprint;
    for (const row of this.list.querySelectorAll("a")) {
      if (row.dataset.fingerprint === fingerprint) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
    this.#remember();
    this.page.refresh();
    if (this.detail.element.offsetTop > this.list.offsetTop + 40) this.detail.element.scrollIntoView();
  }

  #turn(step) {
    if (step > 0) this.cursors.push(this.found.next_cursor);
    else this.cursors.pop();
    this.chosen = null;
    this.#remember();
    this.page.refresh();
  }

  /** The filters that are not as they are at first. */
  #shown() {
    const usual = { since: "24h", order: "last", show_ignored: "false" };
    return Object.fromEntries(Object.entries(this.filters).filter(([name, value]) => value !== (usual[name] ?? "") && (value || name === "show_ignored")));
  }

  #remember() {
    this.page.remember({ view: "failures", ...this.#shown(), fingerprint: this.chosen });
  }

  #set(name, value) {
    this.filters[name] = value;
    this.cursors = [null];
    this.chosen = null;
    if (name === "since") for (const button of this.switch.children) button.setAttribute("aria-pressed", String(button.textContent === value));
    this.#remember();
    this.page.refresh();
  }

  #inputs() {
    const typed = (name, label, type) =>
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
    const choice = (name, label, options) =>
      h(
        "select",
        { name, "aria-label": label, on: { change: (event) => this.#set(name, event.target.value) } },
        options.map(([value, text]) => h("option", { value, text, selected: value === this.filters[name] })),
      );
    return [
      h("label", { class: "search" }, icon("search"), typed("q", "Search type, error or message", "search")),
      typed("func_name", "Task name", "text"),
      choice("status", "State", STATES),
      choice("order", "Order", ORDERS),
      choice("show_ignored", "Ignored groups", IGNORED),
    ];
  }
}

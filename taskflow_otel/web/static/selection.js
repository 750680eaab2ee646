// What can be done with the tasks that are selected in the list, or with all that its filter selects.

import { asked, h, icon, setShown, setText, toast } from "./dom.js";
import { count, plural } from "./format.js";
import { LIVE } from "./vocabulary.js";

const MOST = 100000;
const ACTIONS = {
  retry: {
    icon: "retry",
    path: "bulk-retry",
    possible: (task) => !LIVE.has(task.status) && task.status !== "success" && !task.retried_by,
    text: "Each is enqueued again as a new task; the old ones stay in the history. A task that has succeeded is run again on its own page.",
    agree: "Retry them",
    done: (answer) => `${plural(answer.retried.length, "task")} enqueued again`,
    begun: (answer) => `${plural(answer.matched, "task")} are being enqueued again`,
  },
  cancel: {
    icon: "cancel",
    path: "bulk-cancel",
    possible: (task) => LIVE.has(task.status),
    text: "Those that wait never run; those that run are stopped, or asked to stop.",
    agree: "Cancel them",
    done: (answer) => `${plural(answer.cancelled.length, "task")} cancelled`,
    begun: (answer) => `${plural(answer.matched, "task")} are being cancelled`,
  },
};
const VERBS = { retry: "Retry", cancel: "Cancel" };

/** The bar below the list. `filters()` returns those of the list. */
export class Selection {
  #all = false;

  constructor(page, rows, filters) {
    this.page = page;
    this.rows = rows;
    this.filters = filters;
    this.text = h("strong", { role: "status" });
    this.buttons = Object.fromEntries(Object.keys(ACTIONS).map((name) => [name, this.#button(name)]));
    this.whole = h("button", { class: "button small ghost", type: "button", text: "All that the filter selects", on: { click: () => this.#takeAll() } });
    this.element = h(
      "section",
      { class: "selection", "aria-label": "Selected tasks", hidden: true },
      this.text,
      Object.values(this.buttons).map(({ element }) => element),
      this.whole,
      h("button", { class: "button small ghost", type: "button", text: "Select none", on: { click: () => this.rows.deselect() } }),
    );
  }

  /** Show what is selected now. */
  draw() {
    const tasks = this.rows.selected;
    this.#all &&= tasks.length === this.rows.size;
    setShown(this.element, tasks.length > 0);
    setText(this.text, this.#all ? "All that the filter selects" : `${count(tasks.length)} selected`);
    for (const [name, { element, label }] of Object.entries(this.buttons)) {
      const number = tasks.filter(ACTIONS[name].possible).length;
      setText(label, this.#all ? `${VERBS[name]}…` : `${VERBS[name]} ${count(number)}`);
      setShown(element, this.#all || number > 0);
    }
    // Which tasks have an argument is known of those that were searched only.
    const filtered = Object.values(this.filters()).some(Boolean) && !this.filters().args;
    setShown(this.whole, !this.#all && filtered && tasks.length === this.rows.size && this.rows.end !== null);
  }

  #button(name) {
    const label = h("span");
    const element = h("button", { class: `button small${name === "cancel" ? " danger" : ""}`, type: "button", on: { click: () => this.#act(name) } }, icon(ACTIONS[name].icon), label);
    return { element, label };
  }

  #takeAll() {
    this.#all = true;
    this.draw();
  }

  async #act(name) {
    const action = ACTIONS[name];
    const { params, body, number } = await this.#wanted(name);
    if (!number) return;
    const given = await asked(`${VERBS[name]} ${number}?`, action.text, action.agree, { danger: name === "cancel" });
    if (!given) return;
    const answer = await this.page.attempt(
      () => this.page.api.act("POST", action.path, { params: { ...params, reason: given.reason }, body }),
      (out) => `${out.status === "running" ? action.begun(out) : action.done(out)}${skipped(out)}`,
    );
    if (!answer) return;
    this.rows.deselect();
    await this.page.refresh();
  }

  /** What to send, and how many tasks it is about as text; without a number if there is nothing to do, or it is refused. */
  async #wanted(name) {
    const action = ACTIONS[name];
    if (!this.#all) {
      const ids = this.rows.selected.filter(action.possible).map((task) => task.task_id);
      return { params: {}, body: { task_ids: ids }, number: plural(ids.length, "task") };
    }
    const params = { ...this.filters(), limit: MOST };
    const counted = await this.page.attempt(() => this.page.api.act("POST", action.path, { params: { ...params, dry_run: true } }));
    if (counted?.matched === 0) toast(`The filter selects no task to ${name}.`);
    return { params, body: undefined, number: counted?.matched ? `${counted.more ? "at least " : ""}${plural(counted.matched, "task")}` : null };
  }
}

function skipped(answer) {
  return answer.skipped?.length ? `, ${answer.skipped.length} skipped: ${answer.skipped[0].reason}` : "";
}

// What can be done with one task: look elsewhere, ask where it is, cancel it, run it again.

import { asked, h, icon } from "./dom.js";
import { shortId } from "./format.js";
import { logLink, traceLink } from "./links.js";
import { askToRun } from "./run_dialog.js";
import { LIVE } from "./vocabulary.js";

/** The buttons of a task. */
export function taskActions(page, task) {
  const actions = h("div", { class: "actions" });
  const outside = (name, address) => address && actions.append(h("a", { class: "button", href: address, target: "_blank", rel: "noopener noreferrer" }, icon("external"), name));
  outside("Trace", traceLink(page.session.trace_url, task));
  outside("Log elsewhere", logLink(page.session.log_url, task));
  if (!page.session.can_act) {
    if (task.retried_by) actions.append(retriedAs(task));
    return actions;
  }
  const button = (name, label, click, kind = "") => actions.append(h("button", { class: `button ${kind}`, type: "button", on: { click } }, icon(name), label));
  const own = (action) => `${encodeURIComponent(task.task_id)}/${action}`;
  if (LIVE.has(task.status)) {
    if (task.status === "running") button("search", "Where is it?", () => page.attempt(() => page.api.act("POST", own("stack")), "Asked; its stack comes into its log"));
    button("cancel", "Cancel", () => cancel(page, task, own("cancel")), "danger");
    return actions;
  }
  if (task.retried_by) actions.append(retriedAs(task));
  else if (task.status !== "success") button("retry", "Retry", () => run(page, own("retry"), {}), "primary");
  const name = task.retried_by ? "Run once more…" : task.status === "success" ? "Run again…" : "Change and run…";
  button("retry", name, async () => {
    const made = await askToRun(page, task, own("retry"));
    if (made) page.open({ view: "task", id: made.task_id });
  });
  return actions;
}

async function run(page, path, params) {
  const made = await page.attempt(() => page.api.act("POST", path, { params }), "Enqueued again as a new task");
  if (made) page.open({ view: "task", id: made.task_id });
}

async function cancel(page, task, path) {
  const given = await asked("Cancel this task?", `${task.func_name} ${shortId(task.task_id)} will not run to its end.`, "Cancel the task", { danger: true });
  if (!given) return;
  if (await page.attempt(() => page.api.act("POST", path, { params: { reason: given.reason } }), "Cancellation requested")) await page.refresh();
}

function retriedAs(task) {
  return h("span", { class: "muted retried" }, "Retried as ", taskLink(task.retried_by));
}

/** A link to another task. */
export function taskLink(id) {
  return h("a", { class: "mono", href: `?view=task&id=${encodeURIComponent(id)}`, text: shortId(id), title: id });
}

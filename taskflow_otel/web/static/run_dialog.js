// The question before a finished task runs again: why, and with which arguments.

import { h, setShown, setText } from "./dom.js";
import { parse } from "./exact.js";

const ROWS = 8;

/** Ask, and run it again at `path`; resolves to the new task, or null. What the server refuses is said in the dialog. */
export async function askToRun(page, task, path) {
  const form = await page.attempt(() => page.api.get(`${encodeURIComponent(task.task_id)}/arguments`));
  if (!form) return null;
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("dialog"));
  const fields = form.editable ? form.parameters.map(field) : [];
  const reason = /** @type {HTMLInputElement} */ (h("input", { type: "text", name: "reason", maxlength: "1000", "aria-label": "Reason", placeholder: "Reason, for the audit (optional)", autocomplete: "off" }));
  const problem = h("p", { class: "dialog-problem", role: "alert", hidden: true });
  const send = /** @type {HTMLButtonElement} */ (h("button", { class: "button primary", type: "submit", text: "Run it again" }));
  let made = null;
  const submit = async (event) => {
    event.preventDefault();
    try {
      const changed = changes(fields);
      send.disabled = true;
      const body = changed.length ? { text: `{"arguments":{${changed.map(([name, json]) => `${JSON.stringify(name)}:${json}`).join(",")}}}` } : undefined;
      made = await page.api.act("POST", path, { params: { rerun: task.status === "success" ? true : undefined, reason: reason.value.trim() }, body });
      dialog.close("yes");
    } catch (error) {
      setText(problem, error.message);
      setShown(problem, true);
    } finally {
      send.disabled = false;
    }
  };
  dialog.replaceChildren(
    h("h2", { id: "dialog-title", text: `Run ${task.func_name} again?` }),
    h("p", { text: told(task) }),
    h(
      "form",
      { on: { submit } },
      h(
        "div",
        { class: "dialog-fields" },
        fields.length ? h("fieldset", { class: "arguments" }, h("legend", { text: form.shown ? "Arguments, as JSON" : "Arguments, as JSON; an empty field leaves the argument as it is" }), fields.map((one) => one.element)) : null,
        form.editable ? null : h("p", { class: "muted", text: form.why }),
        reason,
        problem,
      ),
      h("div", { class: "dialog-actions" }, h("button", { class: "button", type: "button", text: "Back", on: { click: () => dialog.close("") } }), send),
    ),
  );
  dialog.returnValue = "";
  dialog.classList.toggle("wide", fields.length > 0);
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.classList.remove("wide");
  return made;
}

function told(task) {
  if (task.retried_by) return "It was retried already. What it does is done once more, by a new task.";
  if (task.status === "success") return "It has succeeded. What it does is done a second time, by a new task.";
  return "A new task does it; this one stays in the history.";
}

/** One parameter: its input, and the text that is in it at first. */
function field(parameter) {
  const before = parameter.value ?? "";
  const input = /** @type {HTMLTextAreaElement} */ (
    h("textarea", { name: parameter.name, rows: String(Math.min(ROWS, before.split("\n").length)), spellcheck: "false", autocomplete: "off", placeholder: parameter.given ? "as it is" : "its default", "aria-label": parameter.name })
  );
  input.value = before;
  const element = h("label", {}, h("span", { class: "mono" }, parameter.name, h("span", { class: "muted", text: parameter.annotation ? `: ${parameter.annotation}` : "" })), input);
  return { name: parameter.name, before, input, element };
}

/** What was changed, as names and JSON texts. */
function changes(fields) {
  return fields
    .filter(({ input, before }) => input.value.trim() !== before.trim() && input.value.trim() !== "")
    .map(({ name, input }) => {
      const text = input.value.trim();
      try {
        parse(text);
      } catch {
        throw new Error(`${name} is not JSON: write a text in quotes, as "Ada".`);
      }
      return [name, text];
    });
}

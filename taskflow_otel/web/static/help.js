// The keys of the page.

import { h } from "./dom.js";

const KEYS = /** @type {[string[], string][]} */ ([
  [["?"], "Show these keys"],
  [["/"], "Go to the search of the view"],
  [["j", "k"], "Go to the next and the previous row"],
  [["Enter"], "Open the row"],
  [["x"], "Select the row, in the list of tasks"],
  [["↑", "↓"], "Choose among suggestions"],
  [["Esc"], "Leave a field, close this"],
]);

/** Show them until the user closes them. */
export function showHelp() {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("dialog"));
  dialog.replaceChildren(
    h("h2", { id: "dialog-title", text: "Keys" }),
    h("dl", { class: "help" }, KEYS.map(([keys, meaning]) => h("div", {}, h("dt", {}, keys.map((key) => h("kbd", { text: key }))), h("dd", { text: meaning })))),
    h("div", { class: "dialog-actions" }, h("button", { class: "button", type: "button", autofocus: true, text: "Close", on: { click: () => dialog.close() } })),
  );
  dialog.showModal();
}

// Builds the page. Data from outside becomes text or an attribute; nothing is ever parsed as HTML.

import { visible } from "./exact.js";

/** Attributes that people read or hear. */
const SHOWN = new Set(["title", "aria-label", "placeholder"]);
const SVG = "http://www.w3.org/2000/svg";

/** An element. `props`: `class`, `text`, `on` (listeners), `data`; all others are attributes (null and false omit one). */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** An SVG element. */
export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = visible(value);
    else if (name === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (SHOWN.has(name)) element.setAttribute(name, visible(value));
    else element.setAttribute(name, value === true ? "" : value);
  }
  const present = children.flat().filter((child) => child !== null && child !== undefined && child !== false);
  element.append(...present.map((child) => (typeof child === "string" ? visible(child) : child)));
  return element;
}

/** Write text only if it differs, so that an unchanged cell costs no layout. */
export function setText(element, text) {
  const shown = visible(text);
  if (element.textContent !== shown) element.textContent = shown;
}

/** A row of a table, with the name of its column at each cell: a phone shows no heads. */
export function tableRow(columns, props, ...cells) {
  const row = h("tr", props, ...cells);
  [...row.children].forEach((cell, place) => columns[place] && (cell.dataset.label = columns[place]));
  return row;
}

export function setShown(element, shown) {
  element.hidden = !shown;
}

const FOCUSABLE = "a[href], button, input, select, textarea, summary, [tabindex]";

/**
 * Replace what is in an element. The user who stands on a part of it, with the keyboard or typing, then stands on the part that has taken
 * its place: in the row of the same `data-key`, or if that row is gone, in the one that is now at its place. What was unfolded stays so.
 */
export function redraw(parent, ...children) {
  const stand = standing(parent);
  const unfolded = new Set([...parent.querySelectorAll("details[open]")].map(foldOf));
  parent.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  for (const details of /** @type {NodeListOf<HTMLDetailsElement>} */ (parent.querySelectorAll("details"))) if (unfolded.has(foldOf(details))) details.open = true;
  stand();
}

/** What folds and unfolds, told from the others beside it. */
function foldOf(details) {
  return `${details.closest("[data-key]")?.dataset.key ?? ""} ${details.className} ${details.querySelector("summary")?.textContent}`;
}

/** How to return to the part of `parent` that has the focus now. */
function standing(parent) {
  const active = /** @type {HTMLElement} */ (document.activeElement);
  if (active === parent || !parent.contains(active)) return () => {};
  const row = rowOf(active, parent);
  const key = row === parent ? null : row.dataset.key;
  const place = rowsOf(parent).indexOf(row);
  const among = partsOf(row);
  const alike = among.filter((part) => signOf(part) === signOf(active));
  const [index, number] = [among.indexOf(active), alike.indexOf(active)];
  const { scrollTop } = active;
  return () => {
    const rows = rowsOf(parent);
    const same = key === null ? parent : rows.find((each) => each.dataset.key === key);
    const found = partsOf(same ?? rows[Math.min(place, rows.length - 1)] ?? parent);
    const part = found.filter((each) => signOf(each) === signOf(active))[number] ?? found[Math.min(index, found.length - 1)];
    if (!part) return;
    part.focus({ preventScroll: true });
    part.scrollTop = scrollTop;
    if (same && active instanceof HTMLInputElement && part instanceof HTMLInputElement && active.type === part.type) keepTyping(active, part);
  };
}

function keepTyping(before, after) {
  after.value = before.value;
  // Only fields of text have a place in it.
  if (before.selectionStart !== null) after.setSelectionRange(before.selectionStart, before.selectionEnd);
}

function rowOf(element, parent) {
  const row = element.closest("[data-key]");
  return row !== null && row !== parent && parent.contains(row) ? row : parent;
}

function rowsOf(parent) {
  return [...parent.querySelectorAll("[data-key]")];
}

function partsOf(row) {
  return [row, ...row.querySelectorAll(FOCUSABLE)].filter((part) => part.matches(FOCUSABLE));
}

/** What a part is, beside its place: a link by where it leads, a field by its name, all else by what is read out. */
function signOf(part) {
  return `${part.tagName} ${part.getAttribute("href") ?? part.getAttribute("name") ?? part.getAttribute("aria-label") ?? part.textContent}`;
}

const ICONS = {
  overview: "M3 13h5v7H3zM9.5 4h5v16h-5zM16 9h5v11h-5z",
  tasks: "M4 6h16M4 12h16M4 18h10",
  failures: "M12 3.5 22 20.5H2zM12 10v4.5M12 17.2v.3",
  types: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM16.5 13.2l3.6 6.6h-7.2z",
  queues: "M4 5h16v4H4zM4 11h11v4H4zM4 17h6v3H4z",
  schedules: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 7.5V12l3.5 2",
  instances: "M4 4h16v6H4zM4 14h16v6H4zM8 7h.1M8 17h.1",
  audit: "M6 3h9l4 4v14H6zM9 11h7M9 15h7M9 7h3",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  retry: "M20 12a8 8 0 1 1-2.5-5.8M20 3v4.5h-4.5",
  cancel: "M6 6l12 12M18 6 6 18",
  external: "M14 4h6v6M20 4l-9 9M18 14v6H4V6h6",
  pause: "M8 5v14M16 5v14",
  play: "M7 4.5v15l12-7.5z",
  search: "M10.5 4a6.5 6.5 0 1 1 0 13 6.5 6.5 0 0 1 0-13zM15.5 15.5 20 20",
  theme: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  back: "M15 5l-7 7 7 7",
  check: "M5 12.5l4.5 4.5L19 7.5",
  help: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM9.5 9.5a2.5 2.5 0 1 1 3.6 2.2c-.8.4-1.1.9-1.1 1.8M12 16.8v.3",
  logout: "M14 4H5v16h9M10 12h11M17.5 8.5 21 12l-3.5 3.5",
};

/** One of the line icons; decoration, hidden from assistive technology. */
export function icon(name) {
  return s("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, s("path", { d: ICONS[name] }));
}

/** A status as a coloured word. */
export function pill(status) {
  return h("span", { class: "pill", data: { status }, text: status });
}

/** A short form of an id; the whole id can be copied. */
export function copyable(text, shown = text) {
  const label = h("span", { class: "mono", text: shown });
  const button = h(
    "button",
    {
      class: "copy",
      type: "button",
      title: `Copy ${text}`,
      "aria-label": `Copy ${text}`,
      on: {
        click: async (event) => {
          event.preventDefault();
          event.stopPropagation();
          await copy(text);
          button.replaceChildren(icon("check"));
          setTimeout(() => button.replaceChildren(icon("copy")), 1200);
        },
      },
    },
    icon("copy"),
  );
  return h("span", { class: "copyable" }, label, button);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return;
  } catch {
    // Without HTTPS there is no clipboard API, and a browser may refuse it.
  }
  const field = h("textarea", { class: "offscreen" });
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

/** Say something for a few seconds, and as long as someone points at it; with `href`, it leads to more about it. */
export function toast(message, kind = "info", href = null) {
  const item = h("div", { class: `toast ${kind}` }, message, href ? h("a", { class: "toast-link", href, text: "Show" }) : null);
  document.getElementById("toasts").append(item);
  const leave = () => setTimeout(() => (item.matches(":hover, :focus-within") ? leave() : item.remove()), kind === "error" || href ? 8000 : 4000);
  leave();
}

/** Ask before an action that cannot be undone; resolves to whether the user agreed. */
export function confirmed(title, text, action, { danger = false } = {}) {
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("dialog"));
  const answer = (value) => () => dialog.close(value);
  dialog.replaceChildren(
    h("h2", { id: "dialog-title", text: title }),
    h("p", { text }),
    h(
      "div",
      { class: "dialog-actions" },
      h("button", { class: "button", type: "button", text: "Back", on: { click: answer("") } }),
      h("button", { class: `button ${danger ? "danger" : "primary"}`, type: "button", autofocus: true, text: action, on: { click: answer("yes") } }),
    ),
  );
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

/**
 * Ask before an action, and why it is done; resolves to `{reason, option}`, or null if the user did not agree.
 *
 * @param {string} title
 * @param {string} text
 * @param {string} action
 * @param {{danger?: boolean, options?: string[][]}} [given] `options`: what to choose from, as values and texts
 */
export function asked(title, text, action, { danger = false, options = [] } = {}) {
  const reason = /** @type {HTMLInputElement} */ (h("input", { type: "text", name: "reason", maxlength: "1000", "aria-label": "Reason", placeholder: "Reason, for the audit (optional)", autocomplete: "off" }));
  const choice = /** @type {HTMLSelectElement} */ (h("select", { name: "option", "aria-label": "How long" }, options.map(([value, shown]) => h("option", { value, text: shown, selected: value === "24h" }))));
  const agreed = confirmed(title, text, action, { danger });
  const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("dialog"));
  reason.addEventListener("keydown", (event) => event.key === "Enter" && dialog.close("yes"));
  dialog.lastElementChild?.before(h("div", { class: "dialog-fields" }, options.length ? choice : null, reason));
  return agreed.then((yes) => (yes ? { reason: reason.value.trim(), option: choice.value } : null));
}

/** A button that copies the address of a view. */
export function copyLink(query) {
  const label = h("span", { text: "Copy link" });
  const click = async () => {
    await copy(new URL(query, location.href).href);
    setText(label, "Copied");
    setTimeout(() => setText(label, "Copy link"), 1200);
  };
  return h("button", { class: "button ghost", type: "button", on: { click } }, icon("copy"), label);
}

/** The empty state of a view. */
export function empty(title, text) {
  return h("div", { class: "empty" }, h("strong", { text: title }), h("p", { text }));
}

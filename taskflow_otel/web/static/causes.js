// The exceptions of a stack trace: the first cause first, with the frames of libraries folded.

import { copyable, h } from "./dom.js";
import { plural } from "./format.js";

/** The chain of causes. `text` is the whole stack trace, which can be copied and unfolded. */
export function causes(chain, text) {
  return h(
    "div",
    { class: "causes" },
    chain.map((cause, index) => one(cause, index === chain.length - 1)),
    text ? h("details", { class: "whole" }, h("summary", {}, "The whole traceback"), copyTrace(text), h("pre", { class: "trace", tabindex: "0", "aria-label": "Traceback", text })) : null,
  );
}

function one(cause, last) {
  return h(
    "section",
    { class: "cause" },
    h("p", { class: "mono cause-error" }, cause.error || "An exception without a text"),
    h("ol", { class: "frames" }, folded(cause.frames)),
    last ? null : h("p", { class: "muted cause-next", text: "and from this:" }),
  );
}

/** Own frames as rows; neighbours from libraries as one row that unfolds. */
function folded(frames) {
  const rows = [];
  let foreign = [];
  const fold = () => {
    if (foreign.length) rows.push(h("li", {}, h("details", {}, h("summary", { class: "muted", text: plural(foreign.length, "library frame") }), h("ol", { class: "frames" }, foreign.map(frame)))));
    foreign = [];
  };
  for (const each of frames) {
    if (!each.own) {
      foreign.push(each);
      continue;
    }
    fold();
    rows.push(frame(each));
  }
  fold();
  return rows;
}

function frame(each) {
  return h(
    "li",
    { class: each.own ? "frame own" : "frame" },
    h("span", { class: "mono frame-place", title: each.file }, `${each.file.split(/[/\\]/).slice(-2).join("/")}:${each.line}`),
    h("span", { class: "mono muted", text: each.function }),
    each.code ? h("code", { text: each.code }) : null,
  );
}

function copyTrace(text) {
  const shown = copyable(text, "");
  const button = /** @type {HTMLElement} */ (shown.querySelector("button"));
  button.title = "Copy the traceback";
  button.setAttribute("aria-label", "Copy the traceback");
  return shown;
}

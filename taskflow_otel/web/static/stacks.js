// Where a running task is, as its log has it: asked for, at its timeout, or when it was stuck or kept the event loop.

import { h, setShown, setText } from "./dom.js";
import { ago, full, plural, precise } from "./format.js";

/** The lines of a stack that a log line has; null if it has none. */
export function stackOf(line) {
  const stack = line.extra?.stack;
  return Array.isArray(stack) && stack.length && stack.every((one) => typeof one === "string") ? stack : null;
}

/** Those of the lines of a log that say that the task kept the event loop. */
export function blocksIn(lines) {
  return lines.filter((line) => stackOf(line) && line.message.includes(" blocked the event loop for "));
}

/** The lines of a stack as a list, the outermost first. */
function frames(stack) {
  return h("ol", { class: "frames" }, stack.map((line) => h("li", { class: "mono frame own", text: line })));
}

/** The lines of a stack behind one line that unfolds. */
export function folded(stack) {
  return h("details", { class: "stack-lines" }, h("summary", { class: "muted", text: plural(stack.length, "frame") }), frames(stack));
}

/** The card with the stacks of a task, the newest one open. */
export class Stacks {
  constructor() {
    this.number = h("span", { class: "muted" });
    this.rows = h("div");
    this.known = new Map();
    this.element = h("section", { class: "card stacks", hidden: true, "aria-label": "Stacks" }, h("div", { class: "card-head" }, h("h2", { text: "Where it was" }), this.number), this.rows);
  }

  /** Show the stacks among the lines of the log. */
  draw(lines) {
    const found = lines.filter(stackOf).sort((one, other) => other.seq - one.seq);
    setShown(this.element, found.length > 0);
    setText(this.number, plural(found.length, "stack"));
    found.forEach((line, index) => {
      if (this.known.has(line.seq)) return;
      const element = row(line, index === 0);
      this.known.set(line.seq, element);
      const later = found[index + 1] ? this.known.get(found[index + 1].seq) : null;
      this.rows.insertBefore(element, later ?? null);
      // What its reader has opened stays open; the newest one is open at first.
      if (index === 0) for (const [seq, other] of this.known) if (seq !== line.seq && !other.dataset.kept) other.open = false;
    });
  }
}

function row(line, open) {
  const [place, why] = told(line.message);
  const element = h(
    "details",
    { class: "stack", open, data: { level: line.level } },
    h(
      "summary",
      {},
      h("span", { class: "mono", text: place }),
      h("span", { class: "muted", text: `${why} · ${ago(line.timestamp)}`, title: `${precise(line.timestamp)} (${full(line.timestamp)}), attempt ${line.attempt + 1}` }),
    ),
    frames(stackOf(line)),
  );
  element.querySelector("summary")?.addEventListener("click", () => (element.dataset.kept = "true"));
  return element;
}

/** The place and the reason in a message such as “the task is at shop.py:12 in charge: asked for by ops”. */
function told(message) {
  const found = /^the task is at (.*?:\d+ in .*?): (.*)$/s.exec(message);
  return found ? [found[1], found[2]] : [message, ""];
}

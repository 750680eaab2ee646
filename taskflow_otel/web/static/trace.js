// The trace of a task as a waterfall: a table with a row for each wait, each attempt and each span inside one.

import { copyable, h, setShown, setText } from "./dom.js";
import { stringify } from "./exact.js";
import { duration, full, plural, precise } from "./format.js";

const AT_FIRST = 60;
const MOSTLY_WAITED = 0.2;
const WHOLE = "whole";

/** A duration of a span, which may be some microseconds. */
export function short(seconds) {
  if (seconds === null || seconds === undefined) return "not ended";
  if (seconds <= 0) return "0";
  if (seconds < 0.001) return `${Math.max(1, Math.round(seconds * 1e6))} µs`;
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(1)} ms`;
  return duration(seconds);
}

/** The card. `read` gets the trace from the server. */
export class Trace {
  constructor(read) {
    this.read = read;
    this.note = h("p", { class: "muted", role: "status" });
    this.number = h("span", { class: "muted" });
    this.scale = /** @type {HTMLSelectElement} */ (h("select", { class: "waterfall-scale", "aria-label": "Scale of the trace", on: { change: () => this.#scaled() } }));
    this.table = h("div", { class: "waterfall-frame" });
    this.element = h("section", { class: "card", "aria-label": "Trace", hidden: true }, h("div", { class: "card-head" }, h("h2", { text: "Trace" }), this.number, this.scale), this.note, this.table);
    /** The rows that are open, and the attempts whose spans are shown or hidden against the default. */
    this.open = new Set();
    this.unfolded = new Map();
  }

  async refresh() {
    let trace;
    try {
      trace = await this.read();
    } catch {
      // The page says what does not answer.
      return;
    }
    const state = stringify(trace);
    if (state === this.state) return;
    this.state = state;
    this.trace = trace;
    this.#draw();
  }

  #draw() {
    const { trace } = this;
    const inner = trace.bars.filter((bar) => isInside(bar));
    setText(this.number, inner.length ? plural(inner.length, "span") : "");
    setText(this.note, noteOf(trace, inner.length > 0));
    setShown(this.note, this.note.textContent !== "");
    const attempts = [...new Set(trace.bars.filter((bar) => isAttempt(bar)).map((bar) => bar.attempt))];
    const before = this.chosen ?? usualScale(trace);
    this.scale.replaceChildren(h("option", { value: WHOLE, text: "Whole task" }), ...attempts.map((attempt) => h("option", { value: String(attempt), text: `Attempt ${attempt + 1}` })));
    this.scale.value = before === WHOLE || attempts.includes(Number(before)) ? before : WHOLE;
    setShown(this.scale, attempts.length > 0);
    setShown(this.element, true);
    this.#drawRows();
  }

  #scaled() {
    this.chosen = this.scale.value;
    this.#drawRows();
  }

  #drawRows() {
    const { trace } = this;
    const focused = this.table.contains(document.activeElement) ? /** @type {HTMLElement} */ (document.activeElement).dataset.key : null;
    const range = rangeOf(trace, this.scale.value);
    const latest = Math.max(-1, ...trace.bars.filter((bar) => isAttempt(bar)).map((bar) => bar.attempt));
    const rows = [];
    let hidden = 0;
    trace.bars.forEach((bar, index) => {
      const key = `${bar.attempt ?? ""}:${bar.span_id ?? bar.name}:${bar.offset}`;
      if (isAttempt(bar)) {
        const inner = innerOf(trace.bars, index);
        const choice = this.unfolded.get(bar.attempt) ?? (bar.attempt === latest ? "some" : "none");
        const shown = choice === "all" ? inner.length : choice === "some" ? Math.min(inner.length, AT_FIRST) : 0;
        rows.push(...this.#row(bar, key, range));
        hidden = inner.length - shown;
        inner.slice(0, shown).forEach((child, place) => rows.push(...this.#row(child, `${key}/${place}`, range)));
        if (hidden > 0 || (choice !== "some" && inner.length)) rows.push(this.#more(bar.attempt, hidden));
      } else if (!isInside(bar)) {
        rows.push(...this.#row(bar, key, range));
      }
    });
    this.table.replaceChildren(
      h(
        "table",
        { class: "waterfall", on: { keydown: (event) => this.#step(event) } },
        h("caption", { class: "offscreen", text: "The waits, attempts and spans of this task. Each row opens to its details." }),
        h("thead", {}, h("tr", {}, h("th", { scope: "col", text: "Name" }), h("th", { scope: "col", text: "Took" }), h("th", { scope: "col" }, h("span", { class: "heard", text: "When" }), axis(range)))),
        h("tbody", {}, rows),
      ),
    );
    if (focused) /** @type {HTMLElement | undefined} */ ([...this.table.querySelectorAll("button")].find((button) => button.dataset.key === focused))?.focus();
  }

  #row(bar, key, range) {
    const isOpen = this.open.has(key);
    const details = h("tr", { class: "waterfall-details", hidden: !isOpen }, h("td", { colspan: "3" }, isOpen ? detailsOf(bar) : null));
    const button = h("button", { type: "button", class: "waterfall-name", "aria-expanded": String(isOpen), data: { key }, title: bar.name }, labelOf(bar));
    const toggle = () => {
      const opening = details.hidden;
      if (opening) this.open.add(key);
      else this.open.delete(key);
      details.firstElementChild?.replaceChildren(...(opening ? [detailsOf(bar)] : []));
      setShown(details, opening);
      button.setAttribute("aria-expanded", String(opening));
    };
    button.addEventListener("click", toggle);
    const name = h("th", { scope: "row" }, button);
    name.style.paddingLeft = `${Math.min(bar.depth, 12) * 12}px`;
    return [h("tr", { class: "waterfall-row", data: { kind: bar.kind, failed: String(bar.failed) } }, name, h("td", { class: "waterfall-took mono", text: bar.kind === "producer" && !bar.duration ? "" : short(bar.duration) }), h("td", {}, track(bar, range))), details];
  }

  #more(attempt, hidden) {
    const show = hidden > 0;
    const text = show ? `Show ${plural(hidden, "more span")} of attempt ${attempt + 1}` : `Show fewer spans of attempt ${attempt + 1}`;
    const click = () => {
      if (show) this.unfolded.set(attempt, "all");
      else this.unfolded.delete(attempt);
      this.#drawRows();
    };
    return h("tr", { class: "waterfall-row" }, h("td", { colspan: "3" }, h("button", { type: "button", class: "button ghost", data: { key: `more:${attempt}` }, on: { click } }, text)));
  }

  /** The arrow keys go from row to row. */
  #step(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const buttons = /** @type {HTMLElement[]} */ ([...this.table.querySelectorAll("button")]);
    const next = buttons[buttons.indexOf(/** @type {HTMLElement} */ (document.activeElement)) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }
}

function isAttempt(bar) {
  return bar.kind === "attempt";
}

/** Whether a bar is a span inside an attempt. */
function isInside(bar) {
  return bar.attempt !== null && bar.kind !== "wait" && !isAttempt(bar);
}

function innerOf(bars, index) {
  const end = bars.findIndex((bar, place) => place > index && !isInside(bar));
  return bars.slice(index + 1, end === -1 ? bars.length : end);
}

/** What a reader must know of a trace. */
function noteOf(trace, hasInner) {
  const notes = [];
  if (trace.trace_id === null) notes.push("Tracing is off: these are the steps that the ledger knows.");
  else if (trace.sampled === false) notes.push("This trace was not sampled: its tracing backend does not have it, and the spans inside its attempts were not made.");
  else if (!hasInner && trace.bars.some((bar) => isAttempt(bar) && bar.duration === null)) notes.push("The spans inside an attempt are shown once it has ended.");
  if (trace.dropped) notes.push(`${plural(trace.dropped, "short span")} not kept.`);
  if (trace.unreadable) notes.push(`The spans of ${plural(trace.unreadable, "attempt")} cannot be read: this instance does not have their key.`);
  return notes.join(" ");
}

/** The whole task, or its latest attempt if it waited for most of the time. */
function usualScale(trace) {
  const attempt = trace.bars.findLast((bar) => isAttempt(bar));
  return attempt && attempt.duration !== null && attempt.duration < trace.duration * MOSTLY_WAITED ? String(attempt.attempt) : WHOLE;
}

function rangeOf(trace, scale) {
  const bar = scale === WHOLE ? null : trace.bars.find((one) => isAttempt(one) && String(one.attempt) === scale);
  if (!bar) return { from: 0, length: Math.max(trace.duration, 1e-6) };
  return { from: bar.offset, length: Math.max(bar.duration ?? trace.duration - bar.offset, 1e-6) };
}

function axis(range) {
  return h("div", { class: "waterfall-axis mono", "aria-hidden": "true" }, [0, 0.5, 1].map((part) => h("span", { text: `${range.from ? "+" : ""}${short(range.length * part)}` })));
}

function labelOf(bar) {
  if (isAttempt(bar)) return [h("b", { text: `Attempt ${bar.attempt + 1}` }), " ", bar.name];
  return bar.name;
}

function track(bar, range) {
  const till = bar.duration === null ? range.from + range.length : bar.offset + bar.duration;
  const place = (moment) => Math.min(1, Math.max(0, (moment - range.from) / range.length));
  const [left, right] = [place(bar.offset), place(till)];
  const outside = till < range.from || bar.offset > range.from + range.length;
  const element = h("i", { class: `waterfall-bar${bar.duration === null ? " open" : ""}`, data: { kind: bar.kind, failed: String(bar.failed) } });
  element.style.left = `${left * 100}%`;
  element.style.width = `max(2px, ${(right - left) * 100}%)`;
  return h("div", { class: "waterfall-track" }, outside ? null : element, h("span", { class: "offscreen", text: `from ${short(bar.offset)}${bar.failed ? ", failed" : ""}` }));
}

function detailsOf(bar) {
  const facts = [
    ["Name", bar.name],
    ["Start", h("span", { title: full(bar.start), text: `${precise(bar.start)} (+${short(bar.offset)})` })],
    ["Took", short(bar.duration)],
    ["Kind", bar.kind],
    ["Span id", bar.span_id ? copyable(bar.span_id) : null],
    ...Object.entries(bar.attributes).map(([name, value]) => [name, h("span", { class: "mono", text: String(value) })]),
  ];
  return h(
    "div",
    { class: "waterfall-facts" },
    bar.error ? h("p", { class: "mono cause-error", text: bar.error }) : null,
    h("dl", { class: "facts" }, facts.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", {}, value)))),
  );
}

// What a person does with a log: choose lines by level and text, follow, wrap, download.

import { h, setText } from "./dom.js";
import { stringify } from "./exact.js";

const LEVELS = ["debug", "info", "warning", "error", "critical"];

/** The tools above a log. `seen()`: the lines and their elements; `name()`: that of the file. */
export class LogTools {
  constructor(logs, seen, name) {
    this.logs = logs;
    this.seen = seen;
    this.name = name;
    this.following = true;
    this.level = h("select", { name: "level", "aria-label": "Level", on: { change: () => this.apply() } }, LEVELS.map((level) => h("option", { value: level, text: level === "debug" ? "All levels" : `${level} and above` })));
    this.text = h("input", { type: "search", name: "text", "aria-label": "Text in the log", placeholder: "Text in the log", autocomplete: "off", on: { input: () => this.apply() } });
    this.hidden = h("span", { class: "muted", role: "status" });
    const follow = h("input", { type: "checkbox", name: "follow", checked: true, on: { change: () => this.#follow(follow.checked) } });
    const wrap = h("input", { type: "checkbox", name: "wrap", checked: true, on: { change: () => logs.classList.toggle("nowrap", !wrap.checked) } });
    this.element = h(
      "div",
      { class: "log-tools" },
      this.level,
      this.text,
      h("label", {}, follow, "Follow"),
      h("label", {}, wrap, "Wrap"),
      h("button", { class: "button small", type: "button", text: "Download", on: { click: () => this.#download() } }),
      this.hidden,
    );
  }

  /** Show the lines that were chosen, after a change or a new line. */
  apply() {
    let hidden = 0;
    for (const { line, element } of this.seen()) {
      const shown = this.accepts(line);
      element.hidden = !shown;
      hidden += Number(!shown);
    }
    setText(this.hidden, hidden ? `${hidden} hidden` : "");
  }

  /** Whether a line is one of those that are shown. */
  accepts(line) {
    if (LEVELS.indexOf(line.level) < LEVELS.indexOf(this.level.value)) return false;
    const text = this.text.value.trim().toLowerCase();
    return !text || `${line.message} ${stringify(line.extra ?? {})}`.toLowerCase().includes(text);
  }

  /** Show the last line, if the log is followed. */
  toEnd() {
    if (this.following) this.logs.scrollTop = this.logs.scrollHeight;
  }

  #follow(following) {
    this.following = following;
    this.toEnd();
  }

  #download() {
    const rows = [...this.seen()].map(({ line }) => [line.timestamp, line.level, line.message, Object.keys(line.extra ?? {}).length ? stringify(line.extra) : ""].filter(Boolean).join(" "));
    const address = URL.createObjectURL(new Blob([`${rows.join("\n")}\n`], { type: "text/plain" }));
    const link = h("a", { href: address, download: this.name() });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }
}

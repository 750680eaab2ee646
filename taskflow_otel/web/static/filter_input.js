// The field for the filter of the list, with suggestions: a combobox (WAI-ARIA 1.2).

import { h, icon, redraw, setShown, setText } from "./dom.js";
import { isSearching, isUnfinished, partAt, read, suggestions, written } from "./filter.js";

const TYPING = 250;
const COUNTING = 150;

/**
 * `known(key)`: see `suggestions`; `learn(key, others)` resolves when more may be known; `number(key, value, others)` resolves to a note about how many
 * tasks have a value among those that the other filters select. `changed(filters)` is called when the line means other filters than before.
 */
export class FilterInput {
  #options = [];
  #chosen = -1;
  #typing = 0;
  #applied = "";
  #counting = 0;

  constructor(filters, { known, learn, number, changed }) {
    this.known = known;
    this.learn = learn;
    this.number = number;
    this.changed = changed;
    this.list = h("ul", { class: "suggestions", id: "filter-suggestions", role: "listbox", "aria-label": "Suggestions", hidden: true });
    this.fault = h("p", { class: "filter-fault", role: "alert", id: "filter-fault" });
    this.field = /** @type {HTMLInputElement} */ (
      h("input", {
        type: "search",
        name: "filter",
        role: "combobox",
        "aria-label": "Search",
        "aria-autocomplete": "list",
        "aria-expanded": "false",
        "aria-controls": "filter-suggestions",
        "aria-describedby": "filter-fault",
        placeholder: "Search, or status:failed type:charge error:Timeout duration:>5s",
        spellcheck: "false",
        autocomplete: "off",
        maxlength: "1000",
        on: {
          input: () => this.#typed(),
          keydown: (event) => this.#key(event),
          focus: () => this.#suggest(),
          click: () => this.#suggest(),
          blur: () => this.#close(),
        },
      })
    );
    this.show(filters);
    this.element = h("div", { class: "search" }, icon("search"), this.field, this.list, this.fault);
  }

  close() {
    clearTimeout(this.#typing);
    clearTimeout(this.#counting);
  }

  /** Show other filters, which something else has set. */
  show(filters) {
    this.field.value = this.#applied = written(filters);
    this.#judge("");
  }

  #typed() {
    this.#suggest();
    clearTimeout(this.#typing);
    // A search waits until it is wanted: a space, Enter, or leaving the field.
    this.#typing = setTimeout(() => isSearching(this.field.value) || this.#apply(), TYPING);
  }

  #apply() {
    clearTimeout(this.#typing);
    const { value } = this.field;
    // A line is read when it has changed: of filters that came by the address, it may say less than they do.
    if (value === this.#applied) return;
    let filters;
    try {
      filters = read(value);
    } catch (error) {
      // A part that is still being written is no fault yet.
      if (!isUnfinished(value) || document.activeElement !== this.field) this.#judge(error.message);
      return;
    }
    this.#applied = value;
    this.#judge("");
    this.changed(filters);
  }

  #judge(fault) {
    setText(this.fault, fault);
    this.field.setAttribute("aria-invalid", String(Boolean(fault)));
  }

  #suggest() {
    this.#draw();
    clearTimeout(this.#counting);
    this.#counting = setTimeout(() => this.#count().catch(() => null), COUNTING);
  }

  /** Let the suggestions say how many tasks they are about, and add those that the page does not show. */
  async #count() {
    const line = this.field.value;
    const { key, from, to } = partAt(line, this.field.selectionStart ?? line.length);
    const isOpen = () => line === this.field.value && document.activeElement === this.field;
    if (key === null || !isOpen()) return;
    const others = read(`${line.slice(0, from)} ${line.slice(to)}`);
    await this.learn(key, others);
    if (!isOpen()) return;
    const chosen = this.#options[this.#chosen]?.text;
    const open = !this.list.hidden || !this.#options.length;
    this.#draw();
    this.#open(open && this.#options.length > 0);
    const again = this.#options.findIndex(({ text }) => text === chosen);
    if (again >= 0) this.#choose(again);
    const options = this.#options;
    const write = async ({ value }, index) => {
      const note = await this.number(key, value, others);
      if (note !== null && options === this.#options) setText(this.list.children[index].lastElementChild, note);
    };
    await Promise.all(options.map(write));
  }

  #draw() {
    const { value, selectionStart } = this.field;
    this.#options = suggestions(value, selectionStart ?? value.length, this.known);
    this.#chosen = -1;
    redraw(
      this.list,
      this.#options.map(({ text, note }, index) =>
        h(
          "li",
          {
            role: "option",
            id: `filter-option-${index}`,
            "aria-selected": "false",
            // The field must keep the focus.
            on: { mousedown: (event) => event.preventDefault(), click: () => this.#take(index) },
          },
          h("span", { class: "mono", text }),
          h("span", { class: "muted", text: note }),
        ),
      ),
    );
    this.#open(this.#options.length > 0);
  }

  #open(open) {
    setShown(this.list, open);
    this.field.setAttribute("aria-expanded", String(open));
    if (!open) this.field.removeAttribute("aria-activedescendant");
  }

  #close() {
    this.#open(false);
    this.#apply();
  }

  #key(event) {
    const open = !this.list.hidden;
    if (event.key === "Enter") {
      event.preventDefault();
      if (open && this.#chosen >= 0) this.#take(this.#chosen);
      else {
        this.#open(false);
        this.#apply();
      }
    } else if (event.key === "Escape" && open) {
      // The second one leaves the field.
      event.stopPropagation();
      event.preventDefault();
      this.#open(false);
    } else if (open && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      const number = this.#options.length;
      this.#choose(this.#chosen < 0 && step < 0 ? number - 1 : (this.#chosen + step + number) % number);
    } else if (open && event.key === "Tab" && this.#chosen >= 0) {
      event.preventDefault();
      this.#take(this.#chosen);
    }
  }

  #choose(index) {
    this.#chosen = index;
    [...this.list.children].forEach((option, place) => option.setAttribute("aria-selected", String(place === index)));
    this.field.setAttribute("aria-activedescendant", `filter-option-${index}`);
    this.list.children[index].scrollIntoView({ block: "nearest" });
  }

  #take(index) {
    const { text, from, to } = this.#options[index];
    const { value } = this.field;
    this.field.value = value.slice(0, from) + text + value.slice(to).trimStart();
    this.field.setSelectionRange(from + text.length, from + text.length);
    this.#suggest();
    this.#apply();
  }
}

// What a person sets up for the list in this browser: its columns, and views to return to.

import { h, icon, redraw, toast } from "./dom.js";

const COLUMNS = ["queue", "created", "duration", "attempt"];
const STORED = { columns: "taskflow-columns", views: "taskflow-views" };
const MOST = 50;

/** What is stored of a list of things that `fits` accepts; whatever else may be there is left out. */
function stored(key, fits) {
  try {
    const found = JSON.parse(localStorage.getItem(key) ?? "[]");
    return Array.isArray(found) ? found.filter(fits) : [];
  } catch {
    return [];
  }
}

/** A menu that hides columns of a table. */
export class Columns {
  constructor(table) {
    this.table = table;
    this.hidden = new Set(stored(STORED.columns, (name) => COLUMNS.includes(name)));
    const box = (name) => h("label", {}, h("input", { type: "checkbox", checked: !this.hidden.has(name), on: { change: (event) => this.#set(name, event.target.checked) } }), name[0].toUpperCase() + name.slice(1));
    this.element = h("details", { class: "menu", name: "list-menu" }, h("summary", { class: "button small", text: "Columns" }), h("div", { class: "menu-body" }, COLUMNS.map(box)));
    this.#draw();
  }

  #set(name, shown) {
    if (shown) this.hidden.delete(name);
    else this.hidden.add(name);
    localStorage.setItem(STORED.columns, JSON.stringify([...this.hidden]));
    this.#draw();
  }

  #draw() {
    this.table.dataset.hidden = [...this.hidden].join(" ");
  }
}

/** A menu of views of the list. `address()` returns the parameters of what is shown now. */
export class SavedViews {
  constructor(page, address) {
    this.page = page;
    this.address = address;
    this.list = h("ul", { class: "views" });
    this.name = /** @type {HTMLInputElement} */ (h("input", { type: "text", name: "view-name", "aria-label": "Name of the view", placeholder: "Name", maxlength: "80", autocomplete: "off" }));
    this.element = h(
      "details",
      { class: "menu", name: "list-menu" },
      h("summary", { class: "button small", text: "Views" }),
      h("div", { class: "menu-body" }, this.list, h("form", { on: { submit: (event) => this.#save(event) } }, this.name, h("button", { class: "button small", type: "submit", text: "Save this view" }))),
    );
    this.#draw();
  }

  get #views() {
    return stored(STORED.views, (view) => typeof view?.name === "string" && typeof view?.query === "string");
  }

  #save(event) {
    event.preventDefault();
    const name = this.name.value.trim();
    if (!name) {
      this.name.focus();
      return;
    }
    const given = Object.entries(this.address()).filter(([key, value]) => value && key !== "cursor");
    const views = [...this.#views.filter((view) => view.name !== name), { name, query: new URLSearchParams(given).toString() }];
    if (views.length > MOST) {
      toast(`At most ${MOST} views are kept: remove one first.`, "error");
      return;
    }
    this.name.value = "";
    this.#keep(views);
  }

  #keep(views) {
    localStorage.setItem(STORED.views, JSON.stringify(views.sort((one, other) => one.name.localeCompare(other.name))));
    this.#draw();
  }

  #draw() {
    redraw(
      this.list,
      this.#views.map(({ name, query }) =>
        h(
          "li",
          { data: { key: name } },
          // Only ever a view of this page.
          h("a", { href: `?${new URLSearchParams({ ...Object.fromEntries(new URLSearchParams(query)), view: "tasks" })}`, text: name }),
          h("button", { class: "icon-button", type: "button", title: `Remove ${name}`, "aria-label": `Remove ${name}`, on: { click: () => this.#keep(this.#views.filter((view) => view.name !== name)) } }, icon("cancel")),
        ),
      ),
    );
  }
}

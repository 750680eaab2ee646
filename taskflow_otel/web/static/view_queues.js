import { asked, empty, h, icon, redraw, setShown, setText, tableRow } from "./dom.js";
import { ago, count, duration, full } from "./format.js";

const COLUMNS = ["Instance", "Running", "Ready", "Delayed", "Oldest"];

/** The queues with their load; operators pause them and change their limits. */
export class QueuesView {
  constructor(page, root) {
    this.page = page;
    this.cards = new Map();
    this.grid = h("div", { class: "queues" });
    this.blank = empty("No queues", "A queue appears when the manager starts.");
    this.blank.hidden = true;
    root.append(h("div", { class: "view-head" }, h("h1", { text: "Queues" }), h("span", { class: "muted", text: "on all living instances" })), this.grid, this.blank);
  }

  async refresh() {
    const queues = await this.page.api.get("queues");
    const names = new Set(queues.map((queue) => queue.name));
    for (const [name, card] of this.cards) {
      if (names.has(name)) continue;
      card.element.remove();
      this.cards.delete(name);
    }
    for (const queue of queues) {
      if (!this.cards.has(queue.name)) {
        const card = new QueueCard(this.page, queue);
        this.cards.set(queue.name, card);
        this.grid.append(card.element);
      }
      this.cards.get(queue.name).draw(queue);
    }
    setShown(this.blank, queues.length === 0);
  }

  poll() {
    return this.refresh();
  }
}

class QueueCard {
  constructor(page, queue) {
    this.page = page;
    this.path = `queues/${encodeURIComponent(queue.name)}`;
    this.paused = h("span", { class: "pill", data: { status: "pending" }, text: "paused", hidden: true });
    this.numbers = Object.fromEntries(["running", "ready", "delayed", "oldest"].map((name) => [name, h("strong", { text: "–" })]));
    this.meter = h("div", { class: "meter big", role: "meter", "aria-label": "Slots in use", "aria-valuemin": "0" }, h("i"));
    this.use = h("span", { class: "muted" });
    this.pausedBy = h("span", { class: "paused-by" });
    this.unclaimed = h("div", { class: "banner bad", role: "alert", hidden: true });
    this.shareRows = h("tbody");
    this.shares = h(
      "table",
      { class: "plain shares", hidden: true },
      h("thead", {}, h("tr", {}, COLUMNS.map((text) => h("th", { scope: "col", text })))),
      this.shareRows,
    );
    this.toggle = h("button", { class: "button", type: "button", on: { click: () => this.#toggle() } });
    this.inputs = { concurrency: limitInput("Concurrency of each instance", 1), max_size: limitInput("Max waiting on each", 0) };
    this.form = h(
      "form",
      { class: "limits", on: { submit: (event) => this.#save(event) } },
      Object.values(this.inputs).map((input) => input.label),
      h("button", { class: "button small", type: "submit", text: "Save limits" }),
    );
    const act = page.session.can_act;
    this.element = h(
      "article",
      { class: "card queue-card" },
      h("div", { class: "card-head" }, h("h2", { text: queue.name }), this.paused, act ? this.toggle : null),
      this.unclaimed,
      this.meter,
      this.use,
      h(
        "dl",
        { class: "numbers" },
        Object.entries({ running: "Running", ready: "Ready", delayed: "Delayed", oldest: "Oldest ready" }).map(([name, title]) => h("div", {}, h("dt", { text: title }), h("dd", {}, this.numbers[name]))),
      ),
      this.pausedBy,
      this.shares,
      act ? this.form : null,
    );
  }

  draw(queue) {
    this.queue = queue;
    setShown(this.paused, queue.paused);
    // A queue that no living instance declares has no limits, and cannot be paused.
    const declared = queue.instances.length > 0;
    for (const control of [this.toggle, this.form, this.meter, this.use]) setShown(control, declared);
    setShown(this.unclaimed, queue.in_pool > 0 && queue.claimers === 0);
    setText(this.unclaimed, `No living instance ${declared ? "claims" : "declares"} this queue: ${count(queue.in_pool)} ${queue.in_pool === 1 ? "task waits" : "tasks wait"} in the pool`);
    this.toggle.replaceChildren(icon(queue.paused ? "play" : "pause"), queue.paused ? "Resume" : "Pause");
    for (const name of ["running", "ready", "delayed"]) setText(this.numbers[name], count(queue[name]));
    setText(this.numbers.oldest, duration(queue.oldest_ready_age_seconds));
    const limited = queue.slots !== null;
    const part = limited ? Math.min(1, queue.running / Math.max(1, queue.slots)) : 0;
    this.meter.firstElementChild.style.width = `${part * 100}%`;
    this.meter.dataset.full = String(part >= 1);
    this.meter.setAttribute("aria-valuenow", String(queue.running));
    this.meter.setAttribute("aria-valuemax", String(queue.slots ?? queue.running));
    const places = queue.max_size === null ? null : queue.max_size * queue.instances.length;
    const size = places === null ? "" : `, ${count(queue.ready + queue.delayed)} of ${count(places)} places taken`;
    const each = limited && queue.instances.length > 1 ? ` (${count(queue.concurrency)} on each of ${queue.instances.length} instances)` : "";
    setText(this.use, limited ? `${queue.running} of ${queue.slots} slots${each}${size}` : `no own limit${size}`);
    const who = queue.paused_by ? ` by ${queue.paused_by}` : "";
    const why = queue.paused_reason ? `: ${queue.paused_reason}` : "";
    setText(this.pausedBy, queue.paused ? `Paused${who}${queue.paused_since ? ` ${ago(queue.paused_since)}` : ""}${why}` : "");
    this.pausedBy.title = full(queue.paused_since);
    const shares = queue.in_pool ? [{ instance_id: "in the pool", running: 0, ready: queue.in_pool, delayed: 0, oldest_ready_age_seconds: null }, ...queue.instances] : queue.instances;
    setShown(this.shares, shares.length > 1);
    redraw(this.shareRows, shares.map(share));
    for (const [name, input] of Object.entries(this.inputs)) {
      // Do not overwrite a field in which someone is typing.
      if (document.activeElement !== input.field && !input.changed) input.field.value = queue[name] ?? "";
    }
  }

  async #toggle() {
    const paused = this.queue.paused;
    const params = {};
    if (!paused) {
      const given = await asked(`Pause ${this.queue.name}?`, "Its tasks wait on all instances until it is resumed; those that run end.", "Pause the queue");
      if (!given) return;
      params.reason = given.reason;
    }
    const queue = await this.page.attempt(() => this.page.api.act("POST", `${this.path}/${paused ? "resume" : "pause"}`, { params }), `${this.queue.name} ${paused ? "resumed" : "paused"}`);
    if (queue) this.draw(queue);
  }

  async #save(event) {
    event.preventDefault();
    const body = {};
    for (const [name, { field }] of Object.entries(this.inputs)) {
      const value = field.value === "" ? null : Number(field.value);
      if (value !== this.queue[name]) body[name] = value;
    }
    const queue = await this.page.attempt(() => this.page.api.act("PATCH", this.path, { body }), `Limits of ${this.queue.name} saved`);
    if (!queue) return;
    for (const input of Object.values(this.inputs)) input.changed = false;
    this.draw(queue);
  }
}

/** The part of a queue that is on one instance. */
function share(part) {
  const numbers = [count(part.running), count(part.ready), count(part.delayed), duration(part.oldest_ready_age_seconds)];
  return tableRow(
    COLUMNS,
    {},
    h("td", { class: "mono clip", text: part.instance_id, title: part.instance_id }),
    numbers.map((text) => h("td", { class: "mono", text })),
  );
}

function limitInput(title, minimum) {
  const input = { changed: false };
  input.field = h("input", { type: "number", min: minimum, step: 1, inputmode: "numeric", placeholder: "no limit", on: { input: () => (input.changed = true) } });
  input.label = h("label", {}, h("span", { text: title }), input.field);
  return input;
}

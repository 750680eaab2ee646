// What is known of the view: it is being read, it is current, it is old, it cannot be read, or it cannot be.

import { h, setShown, setText } from "./dom.js";
import { clock, elapsed } from "./format.js";
import { parts, real } from "./now.js";

/** Speaks above the view, and hides or dims what it does not vouch for. */
export class Notice {
  #root = null;
  #main;
  #contact = null;
  #live = true;
  #phase = "loading";
  #message = "";
  #readAt = null;

  /** `again()` lets the view read once more. */
  constructor(main, again) {
    this.#main = main;
    this.title = h("strong");
    this.text = h("span");
    this.button = h("button", { class: "button small", type: "button", text: "Try again", on: { click: again } });
    this.element = h("div", { class: "notice", role: "status" }, this.title, this.text, this.button);
    setInterval(() => document.hidden || this.#draw(), 1000);
  }

  /** A view has begun, and knows nothing yet. */
  begin(root) {
    this.#root = root;
    this.#readAt = null;
    this.#set("loading");
  }

  /** The view has read what it shows. */
  ready() {
    this.#readAt = real();
    this.#set("ready");
  }

  /** A reading of the view failed. */
  failed(error) {
    // What the server refuses to answer is not what is shown.
    if (error.status >= 400 && error.status < 500) this.#set("refused", error.message);
    else if (error.status === undefined) this.#set("unreadable", `The page has failed: ${error.message}`);
    else this.#set(this.#readAt === null ? "unreadable" : "stale", error.message);
  }

  /** The contact to the server was lost, or is back. */
  contact(contact) {
    this.#contact = contact;
    this.#draw();
  }

  /** Changes arrive as they happen, or not. */
  live(live) {
    this.#live = live;
    this.#draw();
  }

  #set(phase, message = "") {
    this.#phase = phase;
    this.#message = message;
    this.#draw();
  }

  #draw() {
    const away = this.#contact !== null && this.#contact.since !== null;
    const phase = away && this.#readAt !== null ? "away" : away ? "unreadable" : this.#phase;
    if (this.#root !== null) this.#root.dataset.phase = phase;
    this.#main.setAttribute("aria-busy", String(phase === "loading"));
    const [title, text] = away ? this.#away() : this.#said(phase);
    this.element.dataset.phase = phase === "ready" && !this.#live ? "slow" : phase;
    setText(this.title, title);
    setText(this.text, text);
    setShown(this.button, !away && ["unreadable", "stale"].includes(phase));
    setShown(this.element, Boolean(title));
  }

  #away() {
    const since = new Date(this.#contact.since).toISOString();
    const title = `Not connected since ${clock(since)} ${parts(since).zone}.`;
    if (this.#readAt === null) return [title, "Nothing is known until the server answers."];
    return [title, `What is shown is ${elapsed((real() - this.#contact.heardAt) / 1000)} old; nothing on it moves until the server answers.`];
  }

  #said(phase) {
    if (phase === "loading") return ["Loading…", ""];
    if (phase === "refused") return ["This cannot be shown.", this.#message];
    if (phase === "unreadable") return ["This cannot be read now.", this.#message];
    if (phase === "stale") return [`What is shown is ${elapsed((real() - this.#readAt) / 1000)} old.`, `It cannot be read again: ${this.#message}`];
    return this.#live ? ["", ""] : ["Changes do not arrive as they happen.", "The stream does not answer; everything is read again from time to time."];
  }
}

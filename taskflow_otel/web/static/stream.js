// The live stream: changes are collected for each frame, so that the work depends on the number of changed tasks.

import { parse } from "./exact.js";

const SLOWEST_RETRY = 30000;

export class Stream {
  #source = null;
  #lastId = null;
  #tasks = new Map();
  #logs = [];
  #frame = 0;
  #retry = 2000;
  #timer = 0;
  #opened;
  #ended = false;

  /**
   * `onChange(tasks, logs)`: tasks as a map from id to delta. `onReset()`: changes were missed, so read again.
   * `onState(state)`: `live`, `connecting` or `paused`; `live` again at each message.
   */
  constructor({ onChange, onReset, onState }) {
    this.onChange = onChange;
    this.onReset = onReset;
    this.onState = onState;
    /** Resolves when the stream is first connected: a later reading cannot miss a change. */
    this.opened = new Promise((resolve) => (this.#opened = resolve));
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#close("paused") : this.#open()));
    if (!document.hidden) this.#open();
  }

  /** Close permanently. */
  end() {
    this.#ended = true;
    this.#close("paused");
  }

  #open() {
    clearTimeout(this.#timer);
    if (this.#source || this.#ended) return;
    const source = new EventSource(this.#lastId ? `events?after=${encodeURIComponent(this.#lastId)}` : "events");
    this.#source = source;
    this.onState("connecting");
    source.addEventListener("open", () => {
      this.#retry = 2000;
      this.onState("live");
    });
    source.addEventListener("begin", (event) => {
      this.#lastId = event.lastEventId;
      // A stream that does not continue the earlier one does not show the changes in between.
      if (!this.#opened) return this.onReset();
      this.#opened();
      this.#opened = null;
    });
    source.addEventListener("error", () => {
      if (source !== this.#source) return;
      this.onState("connecting");
      // The browser reconnects by itself after a lost connection, but gives up after an error status.
      if (source.readyState !== EventSource.CLOSED) return;
      this.#close("connecting");
      this.#timer = setTimeout(() => this.#open(), this.#retry);
      this.#retry = Math.min(this.#retry * 2, SLOWEST_RETRY);
    });
    for (const kind of ["task", "progress"]) {
      source.addEventListener(kind, (event) => {
        const delta = this.#read(event);
        this.#tasks.set(delta.task_id, { ...this.#tasks.get(delta.task_id), ...delta });
      });
    }
    source.addEventListener("log", (event) => this.#logs.push(this.#read(event)));
    source.addEventListener("reset", (event) => {
      this.#lastId = event.lastEventId;
      this.#tasks.clear();
      this.#logs = [];
      this.onReset();
    });
  }

  #close(state) {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
    this.onState(state);
  }

  #read(event) {
    if (event.lastEventId) this.#lastId = event.lastEventId;
    this.onState("live");
    this.#frame ||= requestAnimationFrame(() => this.#flush());
    return parse(event.data);
  }

  #flush() {
    this.#frame = 0;
    const [tasks, logs] = [this.#tasks, this.#logs];
    this.#tasks = new Map();
    this.#logs = [];
    this.onChange(tasks, logs);
  }
}

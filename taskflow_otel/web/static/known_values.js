// The values that may follow a key of the filter, and how many tasks of the ledger have each.

import { count } from "./format.js";

const FRESH = 10000;
const GROUPS = 50;
const SAMPLE = 100;
/** The parameter of the API that selects the tasks with a value. */
const PARAMS = { type: "func_name", queue: "queue", source: "source", error: "error", tag: "tag" };
/** The values that a task has. */
const OF_TASK = {
  type: (task) => [task.func_name],
  queue: (task) => [task.queue],
  source: (task) => [task.source],
  error: (task) => [task.error_type],
  tag: (task) => Object.entries(task.tags ?? {}).map(([key, value]) => `${key}:${value}`),
};
/** Where the values are read that no task of the page has. */
const READ = {
  type: async (api) => (await api.get("types", { window: "24h" })).types.map((type) => type.func_name),
  queue: async (api) => (await api.get("queues")).map((queue) => queue.name),
  // No index has the tags of all tasks: those of the newest tasks that the other filters select.
  tag: async (api, others) => (await api.tasks({ ...others, args: "", limit: SAMPLE })).tasks.flatMap(OF_TASK.tag),
  error: async (api) => (await api.get("failures", { ended_since: "24h", order: "count", limit: GROUPS })).groups.map((group) => group.error_type),
};

/** A number, with a plus if it is a lower bound. */
export const atLeast = (number, exact) => `${count(number)}${exact ? "" : "+"}`;

/** `tasks()` returns the tasks on the page. */
export class KnownValues {
  #read = new Map();
  #numbers = new Map();

  constructor(/** @type {import("./api.js").Api} */ api, tasks) {
    this.api = api;
    this.tasks = tasks;
  }

  /** The values of a key that are known by now: those on the page first, the most frequent one at the top. */
  of(key) {
    const here = new Map();
    for (const value of this.tasks().flatMap((task) => OF_TASK[key]?.(task) ?? [])) if (value) here.set(value, (here.get(value) ?? 0) + 1);
    const sorted = [...here].sort(([, one], [, other]) => other - one).map(([value]) => value);
    return [...new Set([...sorted, ...(this.#read.get(key)?.values ?? [])])];
  }

  /** Read the values that the page does not show; `others`: the filters beside that of the key. */
  async learn(key, others) {
    if (!Object.hasOwn(READ, key)) return;
    const about = JSON.stringify(others);
    const known = this.#read.get(key);
    if (known && performance.now() - known.at < FRESH && (key !== "tag" || known.about === about)) return known.answer;
    // Who asks again before the answer waits for the same one.
    const read = { at: performance.now(), about, values: known?.values ?? [], answer: Promise.resolve() };
    this.#read.set(key, read);
    read.answer = READ[key](this.api, others).then((values) => void (read.values = [...new Set(values.filter(Boolean))]));
    await read.answer;
  }

  /** How many tasks have a value among those that other filters select, as text; null if that is not counted. The server counts no further than it may. */
  async number(key, value, others) {
    // Nobody knows how many tasks have an argument.
    if (!Object.hasOwn(PARAMS, key) || others.args) return null;
    const wanted = { ...others, [PARAMS[key]]: value };
    const name = JSON.stringify(wanted);
    const known = this.#numbers.get(name);
    if (known && performance.now() - known.at < FRESH) return known.text;
    const { total, exact } = await this.api.get("stats", wanted);
    const text = `${atLeast(total, exact)} ${total === 1 && exact ? "task" : "tasks"}`;
    this.#numbers.set(name, { at: performance.now(), text });
    return text;
  }
}

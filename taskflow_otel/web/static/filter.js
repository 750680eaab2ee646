// The filter of the list as a line of words: `status:failed type:charge error:Timeout duration:>5s declined`.

import { SOURCES, STATUSES } from "./vocabulary.js";

/** Words that lead a part of the line, what each selects, and what may follow. */
export const KEYS = {
  status: { meaning: "state", params: ["status"], values: STATUSES, closed: true },
  type: { meaning: "name of the task; =name for exactly this one", params: ["func_name_prefix", "func_name"] },
  error: { meaning: "part of the error or its type", params: ["error"] },
  queue: { meaning: "queue", params: ["queue"] },
  tag: { meaning: "key:value, or key alone", params: ["tag"] },
  duration: { meaning: ">5s or <100ms, of finished tasks", params: ["min_duration", "max_duration"], values: [">1s", ">5s", ">1m", "<100ms"] },
  created: { meaning: "within this time", params: ["since"], values: ["15m", "1h", "6h", "24h", "7d"] },
  before: { meaning: "created before this time", params: ["until"], values: ["1h", "24h"] },
  ended: { meaning: "ended within this time", params: ["ended_since"], values: ["15m", "1h", "6h", "24h", "7d"] },
  ended_before: { meaning: "ended before this time", params: ["ended_until"], values: ["1h", "24h"] },
  source: { meaning: "what made it", params: ["source"], values: SOURCES, closed: true },
  trace: { meaning: "trace id", params: ["trace_id"] },
  failure: { meaning: "fingerprint of a failure", params: ["fingerprint"] },
};

/** What leads a condition on an argument: `args.order:782`, or `args:782` for a value of any argument. */
const ARGS = "args";
const ARGS_MEANING = "value of any argument; args.order:782 for one of this name";

/** The keys that take a time. */
const TIMES = new Set(["created", "before", "ended", "ended_before"]);
const TIME = /^(\d+(\.\d+)?(ms|s|m|h|d|w)|\d{4}-\d\d-\d\d.*)$/;

/** The names of the API's filters. */
export const FILTERS = [...Object.values(KEYS).flatMap(({ params }) => params), "args", "q"];

/** How many suggestions there are at a time. */
const MOST = 12;

const PART = /(args\.[^\s:="]+|[A-Za-z_.]+):(?:"([^"]*)"?|(\S*))|"([^"]*)"?|(\S+)/g;

/** The parts of a line: `{key, value, from, to}`; without a key, `key` is null. */
export function parts(line) {
  return [...line.matchAll(PART)].map((found) => {
    const [text, key = null, ...values] = found;
    return { key, value: values.find((value) => value !== undefined) ?? "", from: found.index, to: found.index + text.length };
  });
}

/** The filters that a line means, as parameters of the API; throws an `Error` with a sentence if it means none. */
export function read(line) {
  const filters = {};
  const words = [];
  const conditions = [];
  const set = (name, value, key) => {
    if (filters[name] !== undefined) throw new Error(`${key}: can be given once.`);
    filters[name] = value;
  };
  for (const { key, value, from, to } of parts(line)) {
    if (key === null) words.push(value);
    else if (isArgument(key)) {
      if (!value) throw new Error(`${key}: needs a value: args.order:782, or args:782 for a value of any argument.`);
      if (/(^|\.)(\.|$)/.test(key)) throw new Error(`${key} is not the name of an argument, such as args.order or args.customer.name.`);
      if (value.includes('"')) throw new Error(`${key}: a value cannot have a double quote.`);
      conditions.push(condition(key.slice(ARGS.length + 1), value));
    }
    // What looks like a part of an error (“KeyError:”, “http://”) is searched for.
    else if (!Object.hasOwn(KEYS, key)) words.push(line.slice(from, to));
    else if (!value) throw new Error(`${key}: needs a value: ${KEYS[key].meaning}.`);
    else if (KEYS[key].closed && !KEYS[key].values.includes(value)) throw new Error(`${key}: is one of ${KEYS[key].values.join(", ")}.`);
    else if (TIMES.has(key) && !TIME.test(value)) throw new Error(`${key}: needs an age such as 6h, or a time such as 2026-01-31T12:00.`);
    else if (key === "type") set(...(value.startsWith("=") ? ["func_name", value.slice(1)] : ["func_name_prefix", value]), key);
    else if (key === "duration") {
      if (!/^[<>]/.test(value)) throw new Error("duration: begins with > or <, as in duration:>5s.");
      set(value[0] === ">" ? "min_duration" : "max_duration", value.slice(1), key);
    } else set(KEYS[key].params[0], value, key);
  }
  if (conditions.length) filters.args = conditions.join(" ");
  if (words.length) filters.q = words.join(" ");
  return filters;
}

function isArgument(key) {
  return key === ARGS || Boolean(key?.startsWith(`${ARGS}.`));
}

/** A condition on an argument as the API takes it; without a name, on any argument. */
function condition(name, value) {
  const quoted = /[\s:=]/.test(value) ? `"${value}"` : value;
  return name ? `${name}:${quoted}` : quoted;
}

const CONDITION = /(?:([^\s:="]+)[:=])?(?:"([^"]*)"|([^\s"]\S*))/g;

/** Whether a line ends in a condition on an argument, which may have more to come: the server reads many tasks for it. */
export function isSearching(line) {
  const last = parts(line).at(-1);
  return Boolean(last && last.to === line.length && isArgument(last.key));
}

/** Whether the last part of a line may still become one that selects something. */
export function isUnfinished(line) {
  const last = parts(line).at(-1);
  if (isSearching(line)) return !last.value;
  if (!last || last.to < line.length || !Object.hasOwn(KEYS, last.key ?? "")) return false;
  const { closed, values } = KEYS[last.key];
  return /^[<>=]?$/.test(last.value) || (closed && values.some((value) => value.startsWith(last.value))) || (TIMES.has(last.key) && /^[\d.:T+-]+$/.test(last.value));
}

/** The line for these filters. */
export function written(filters) {
  const said = [];
  for (const [key, { params }] of Object.entries(KEYS)) {
    for (const name of params) {
      if (!filters[name]) continue;
      const mark = { func_name: "=", min_duration: ">", max_duration: "<" }[name] ?? "";
      said.push(part(key, mark + filters[name]));
    }
  }
  for (const [, name, quoted, plain] of (filters.args ?? "").matchAll(CONDITION)) said.push(part(name ? `${ARGS}.${name}` : ARGS, quoted ?? plain));
  if (filters.q) said.push(parts(filters.q).some(({ key }) => key !== null) ? `"${filters.q}"` : filters.q);
  return said.join(" ");
}

/** One part of a line; a value with spaces is quoted. */
export function part(key, value) {
  return `${key}:${/\s/.test(value) ? `"${value}"` : value}`;
}

/** The part of a line at which the cursor is. */
export function partAt(line, at) {
  return parts(line).find(({ from, to }) => from <= at && at <= to) ?? { key: null, value: "", from: at, to: at };
}

/**
 * What can follow where the cursor is: `{text, note, from, to, value}`: `text` takes the place between `from` and `to`, and is about `value`.
 *
 * `known(key)` returns the values of a key that are known, each with a note about it, as `[value, note]`.
 */
export function suggestions(line, at, known) {
  const { key, value, from, to } = partAt(line, at);
  // A name that is known is meant as it is, and not as the beginning of others.
  const exact = key === "type" ? "=" : "";
  const wanted = value.toLowerCase().replace(key === "type" ? /^=/ : "", "");
  if (key === null) {
    return [...Object.entries(KEYS).map(([name, { meaning }]) => [name, meaning]), [ARGS, ARGS_MEANING]]
      .filter(([name]) => name.startsWith(wanted))
      .map(([name, meaning]) => ({ text: `${name}:`, note: meaning, from, to }));
  }
  if (!Object.hasOwn(KEYS, key)) return [];
  const counted = known(key);
  const others = (KEYS[key].values ?? []).filter((each) => !counted.some(([one]) => one === each)).map((each) => [each, ""]);
  return [...counted, ...others]
    .filter(([each]) => each.toLowerCase().startsWith(wanted) && exact + each !== value)
    .slice(0, MOST)
    .map(([each, note]) => ({ text: `${part(key, exact + each)} `, note, from, to, value: each }));
}

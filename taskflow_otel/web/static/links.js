// Links to other tools: the trace of a task, and its log.

import { now } from "./now.js";

const AFTER = 60000;

/** The link to the trace of a task; null without one. */
export function traceLink(pattern, task) {
  return task.trace_id ? filled(pattern, { trace_id: task.trace_id }) : null;
}

/** The link to the log of a task elsewhere; null without one. */
export function logLink(pattern, task) {
  if (pattern?.includes("{trace_id}") && !task.trace_id) return null;
  const ended = task.end_time ? Date.parse(task.end_time) : now();
  return filled(pattern, { task_id: task.task_id, trace_id: task.trace_id ?? "", from: Date.parse(task.created_at), to: Math.round(ended) + AFTER });
}

/** The address with these values in place of their names; always an http(s) address. */
function filled(pattern, values) {
  if (!pattern) return null;
  const address = pattern.replace(/\{(\w+)\}/g, (whole, name) => (Object.hasOwn(values, name) ? encodeURIComponent(values[name]) : whole));
  return /^https?:/i.test(address) ? address : null;
}

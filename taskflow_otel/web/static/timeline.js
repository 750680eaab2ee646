// The life of a task as bars: its waits and its runs, for each attempt.

import { h } from "./dom.js";
import { clock, duration, elapsed } from "./format.js";
import { now } from "./now.js";
import { LIVE, OUTCOMES } from "./vocabulary.js";

const AFTER = {
  enqueued: "waiting",
  started: "running",
  retry_scheduled: "backoff",
  recovered: "waiting",
};

/** The segments of the timeline: `{kind, attempt, from, to, outcome}` with times in milliseconds. */
export function segments(task, at = now()) {
  const found = [];
  // The limit of an objective may pass during a wait or a run, and ends neither.
  const entries = task.timeline.filter((entry) => entry.transition !== "objective_missed");
  entries.forEach((entry, index) => {
    const following = entries[index + 1];
    let kind = AFTER[entry.transition];
    if (!kind || (!following && !LIVE.has(task.status))) return;
    if (kind === "waiting" && entry.reason === "delayed") kind = "delayed";
    found.push({
      kind,
      // The wait for a retry belongs to the next attempt.
      attempt: following?.transition === "started" ? following.attempt : entry.attempt + (kind === "backoff" ? 1 : 0),
      from: Date.parse(entry.timestamp),
      to: following ? Date.parse(following.timestamp) : Math.max(at, Date.parse(entry.timestamp)),
      outcome: kind === "running" && following ? (OUTCOMES[following.transition] ?? null) : null,
      instance: kind === "running" ? entry.instance : null,
      open: !following,
    });
  });
  return found;
}

/** The bars, one line for each attempt. */
export function timeline(task) {
  const all = segments(task);
  if (!all.length) return h("p", { class: "muted", text: "This task never waited and never ran." });
  const start = all[0].from;
  const span = Math.max(1, all.at(-1).to - start);
  const lines = new Map();
  for (const segment of all) lines.set(segment.attempt, [...(lines.get(segment.attempt) ?? []), segment]);
  return h(
    "div",
    { class: "timeline" },
    [...lines].map(([attempt, parts]) =>
      h(
        "div",
        { class: "lane" },
        h("span", { class: "lane-name", text: `Attempt ${attempt + 1}` }),
        h("div", { class: "lane-track" }, parts.map((part) => bar(part, start, span))),
        h("span", { class: "lane-took", text: summary(parts, attempt, task), title: ranOn(parts) }),
      ),
    ),
    h(
      "div",
      { class: "lane axis", "aria-hidden": "true" },
      h("span"),
      h("div", { class: "lane-track" }, h("span", { text: clock(task.timeline[0].timestamp) }), h("span", { text: `+${duration(span / 1000)}` })),
      h("span"),
    ),
  );
}

function bar(part, start, span) {
  const took = duration((part.to - part.from) / 1000);
  const element = h("span", {
    class: `seg ${part.kind}${part.open ? " open" : ""}`,
    data: { outcome: part.outcome ?? "" },
    title: `${part.kind} ${took}${part.outcome ? `, then ${part.outcome}` : ""}`,
  });
  element.style.left = `${((part.from - start) / span) * 100}%`;
  element.style.width = `max(3px, ${((part.to - part.from) / span) * 100}%)`;
  return element;
}

function summary(parts, attempt, task) {
  const ran = parts.filter((part) => part.kind === "running");
  const of = (list) => list.reduce((sum, part) => sum + part.to - part.from, 0) / 1000;
  if (!ran.length) return `waits ${duration(of(parts))}`;
  if (ran.at(-1).open) return `runs ${elapsed(of(ran))}`;
  // The measured time, which is shown elsewhere too; the moments of the timeline are of a clock that may be set.
  const measured = attempt === task.attempt && ran.length === 1 ? task.duration : null;
  return `ran ${duration(measured ?? of(ran))}`;
}

function ranOn(parts) {
  const instances = [...new Set(parts.map((part) => part.instance).filter(Boolean))];
  return instances.length ? `ran on ${instances.join(", ")}` : null;
}

/** Where each entry of a timeline happened: the end of an attempt may be written by another instance than ran it. */
export function places(entries) {
  let ran = null;
  return entries.map((entry) => {
    if (entry.transition === "started") ran = entry.instance;
    const elsewhere = ran !== null && ran !== entry.instance;
    const text = elsewhere && ["interrupted", "recovered"].includes(entry.transition) ? `ran on ${ran}, noted by ${entry.instance}` : `on ${entry.instance}`;
    if (entry.transition !== "started") ran = null;
    return text;
  });
}

export function legend() {
  return h(
    "div",
    { class: "legend" },
    ["waiting", "delayed", "backoff", "running"].map((kind) => h("span", {}, h("i", { class: `seg ${kind}` }), kind)),
    ["success", "failed"].map((outcome) => h("span", {}, h("i", { class: "seg running", data: { outcome } }), `ran, ${outcome}`)),
  );
}

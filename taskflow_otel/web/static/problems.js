// What is wrong now, said first: what is paused, who died, what fails since recently; with the action that ends it.

import { h, icon, redraw, setShown } from "./dom.js";
import { titleOf } from "./failure.js";
import { ago, count, duration, full, plural, secondsBetween, share } from "./format.js";
import { real } from "./now.js";

/** How long a death is news, in seconds. */
const NEWS = 3600;
const GROUPS = 20;
const SHOWN = 3;

/**
 * One of the problems. `tone`: bad, or warning; `act`: the path of the request that ends it, and its name.
 *
 * @typedef {{tone: string, text: string, title?: string, href: string, act?: {path: string, label: string, done: string}}} Problem
 */

/** Reads the problems from time to time, and shows them. */
export class Problems {
  #read = 0;

  /** `changed()` is called when their number may have changed. */
  constructor(page, changed) {
    this.page = page;
    this.changed = changed;
    /** @type {Problem[]} */
    this.found = [];
    this.list = h("ul", { class: "problems-list" });
    this.element = h("section", { class: "problems", "aria-label": "Problems", hidden: true }, this.list);
  }

  /** Read them, unless that was less than `age` milliseconds ago. */
  async refresh(age = 0) {
    if (real() - this.#read < age) return;
    this.#read = real();
    try {
      this.found = await this.#find(this.page.api);
    } catch (error) {
      this.#read = 0;
      throw error;
    }
    this.#draw();
    this.changed();
  }

  /** @returns {Promise<Problem[]>} */
  async #find(api) {
    const [health, queues, schedules, instances, objectives, failures] = await Promise.all([
      api.get("health"),
      api.get("queues"),
      api.get("schedules"),
      api.get("instances"),
      api.get("objectives"),
      api.get("failures", { ended_since: "1h", order: "recent", limit: GROUPS }),
    ]);
    return [
      ...health.reasons.map((reason) => ({ tone: "bad", text: `Not ready: ${reason}`, href: "?view=instances" })),
      ...instances.flatMap(died),
      ...queues.filter((queue) => queue.in_pool > 0 && queue.claimers === 0).map(unclaimed),
      ...queues.filter((queue) => queue.paused).map(pausedQueue),
      ...schedules.filter((schedule) => schedule.paused).map(pausedSchedule),
      ...schedules.filter((schedule) => schedule.last_status === "failed" || schedule.last_status === "interrupted").map(failedRun),
      ...objectives.flatMap(spent),
      ...failing(failures.groups),
    ];
  }

  #draw() {
    redraw(this.list, this.found.map((problem) => this.#row(problem)));
    setShown(this.element, this.found.length > 0);
  }

  #row(/** @type {Problem} */ { tone, text, title, href, act }) {
    const button = act && this.page.session.can_act ? h("button", { class: "button small", type: "button", on: { click: () => this.#act(act) } }, icon("play"), act.label) : null;
    return h("li", { data: { tone, key: act?.path ?? href } }, icon(tone === "bad" ? "failures" : "pause"), h("a", { href, text, title }), button);
  }

  async #act({ path, done }) {
    if (await this.page.attempt(() => this.page.api.act("POST", path), done)) await this.refresh();
  }
}

function died(instance) {
  if (instance.state !== "dead" || secondsBetween(instance.heartbeat_at, null) > NEWS) return [];
  const left = instance.interrupted_number ? `, ${plural(instance.interrupted_number, "running task")} interrupted` : "";
  return [{ tone: "bad", text: `Instance ${instance.instance_id} died ${ago(instance.heartbeat_at)}${left}`, title: full(instance.heartbeat_at), href: "?view=instances" }];
}

function unclaimed(queue) {
  const [tasks, who] = queue.in_pool === 1 ? ["task waits", "it"] : ["tasks wait", "them"];
  return { tone: "bad", text: `${count(queue.in_pool)} ${tasks} in the pool for the queue ${queue.name}, and no living instance claims ${who}`, href: "?view=queues" };
}

/** Since when something is paused, by whom and why, as far as that is known. */
function pauseOf({ paused_since: since, paused_by: by, paused_reason: reason }) {
  return `paused${since ? ` ${ago(since)}` : ""}${by ? ` by ${by}` : ""}${reason ? `: ${reason}` : ""}`;
}

function pausedQueue(queue) {
  const waiting = queue.ready ? ` · ${plural(queue.ready, "task")} waiting` : "";
  return {
    tone: "warning",
    text: `Queue ${queue.name} ${pauseOf(queue)}${waiting}`,
    title: full(queue.paused_since),
    href: "?view=queues",
    act: { path: `queues/${encodeURIComponent(queue.name)}/resume`, label: "Resume", done: `${queue.name} resumed` },
  };
}

function pausedSchedule(schedule) {
  return {
    tone: "warning",
    text: `Schedule ${schedule.name} ${pauseOf(schedule)}`,
    title: full(schedule.paused_since),
    href: "?view=schedules",
    act: { path: `schedules/${encodeURIComponent(schedule.name)}/resume`, label: "Resume", done: `${schedule.name} resumed` },
  };
}

function failedRun(schedule) {
  const href = schedule.last_task_id ? `?${new URLSearchParams({ view: "task", id: schedule.last_task_id })}` : "?view=schedules";
  return { tone: "bad", text: `The last run of the schedule ${schedule.name} ${schedule.last_status === "failed" ? "failed" : "was interrupted"}`, href };
}

function spent(objective) {
  const href = `?${new URLSearchParams({ view: "type", name: objective.task })}`;
  const limit = objective.within_seconds === null ? "" : ` in ${duration(objective.within_seconds)}`;
  const late = objective.overdue ? [{ tone: "warning", text: `${plural(objective.overdue, "task")} of ${objective.task} late for the objective${limit}`, href }] : [];
  if (objective.budget_left === null || objective.budget_left > 0) return late;
  return [{ tone: "bad", text: `${objective.task} has used up its error budget: ${share(objective.good_share)} good of ${share(objective.success)}${limit}`, href }, ...late];
}

function failing(groups) {
  const told = groups.filter((group) => group.trend !== null && group.open);
  const rows = told.slice(0, SHOWN).map((group) => ({
    tone: "bad",
    text: `${group.trend === "new" ? "New" : "Rising"}: ${titleOf(group)} in ${group.func_name}, ${count(group.recent)} in the last hour`,
    title: group.example,
    href: `?${new URLSearchParams({ view: "failures", fingerprint: group.fingerprint })}`,
  }));
  if (told.length > SHOWN) rows.push({ tone: "bad", text: `${plural(told.length - SHOWN, "more group")} of failures new or rising`, title: "", href: "?view=failures&order=recent&since=1h" });
  return rows;
}

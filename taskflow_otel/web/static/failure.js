// One group of failures: when it occurred, what it is, and what can be done about exactly its tasks.

import { causes } from "./causes.js";
import { asked, copyLink, h, icon, pill, redraw, setShown } from "./dom.js";
import { ago, clock, count, duration, full, plural, shortId } from "./format.js";
import { occurrences } from "./chart.js";
import { stillWanted } from "./reading.js";
import { marked } from "./releases.js";
import { reasonText } from "./rows.js";
import { operationLink } from "./view_operations.js";

const MOST = 100000;
const TIMES = [
  ["4h", "for 4 hours"],
  ["24h", "for a day"],
  ["7d", "for a week"],
  ["30d", "for 30 days"],
];

/** What a group is called: its error, or why its tasks were interrupted or rejected. */
export function titleOf(group) {
  if (group.status !== "failed" && group.reason) {
    const reason = reasonText(group.reason);
    return reason[0].toUpperCase() + reason.slice(1);
  }
  return group.error_type ?? "Error";
}

/** The right half of the worklist. */
export class FailureDetail {
  /** `changed()` is called after an action. */
  constructor(page, changed) {
    this.page = page;
    this.changed = changed;
    this.element = h("article", { class: "card failure", hidden: true, "aria-label": "The chosen group" });
  }

  close() {
    this.fingerprint = null;
  }

  /** Show a group, or none (`null`). */
  async show(fingerprint, since) {
    this.fingerprint = fingerprint;
    if (fingerprint === null) {
      setShown(this.element, false);
      return;
    }
    // Until the chosen group is there, nobody acts on the one before it by mistake.
    this.element.inert = this.drawn !== fingerprint;
    const read = () => Promise.all([this.page.api.get(`failures/${encodeURIComponent(fingerprint)}`, { ended_since: since }), this.page.releases.read()]);
    const found = await stillWanted(() => String(this.fingerprint), read);
    if (found === null) return;
    this.#draw(...found);
    this.drawn = fingerprint;
    this.element.inert = false;
    setShown(this.element, true);
  }

  #draw(group, releases) {
    const filter = { view: "tasks", fingerprint: group.fingerprint };
    const parts = [
      h("div", { class: "group-title" }, h("h2", { text: titleOf(group) }), pill(group.status), group.trend ? h("span", { class: `badge ${group.trend}`, text: group.trend }) : null),
      group.example ? h("p", { class: "mono group-error", text: group.example }) : null,
      h(
        "p",
        { class: "muted" },
        h("a", { class: "tag", href: `?${new URLSearchParams({ view: "tasks", func_name: group.func_name })}`, text: group.func_name }),
        h("a", { class: "link", href: `?${new URLSearchParams(filter)}`, text: plural(group.count + group.waiting, "task") }),
        h("span", { text: ` · ${count(group.open)} open · ` }),
        h("span", { text: `first ${ago(group.first_at)}`, title: full(group.first_at) }),
        h("span", { text: ` · last ${ago(group.last_at)}`, title: full(group.last_at) }),
      ),
      this.#actions(group),
      group.ignored ? h("p", { class: "muted", text: `Ignored by ${group.ignored.by ?? "someone"} until ${clock(group.ignored.until)}${group.ignored.reason ? `: ${group.ignored.reason}` : ""}` }) : null,
      group.points.length ? marked(occurrences(group.points, Date.parse(group.since), group.bucket_seconds), releases, Date.parse(group.since), group.bucket_seconds * group.points.length) : null,
      h("h3", { text: "Error of the newest" }),
      group.causes.length ? causes(group.causes, group.stacktrace) : h("p", { class: "muted", text: "No traceback is stored." }),
      group.arguments ? h("h3", { text: "Its arguments" }) : null,
      group.arguments ? h("pre", { class: "trace", tabindex: "0", "aria-label": "Arguments", text: group.arguments }) : null,
      h("h3", { text: "Newest tasks" }),
      h("ol", { class: "samples" }, group.samples.map(sample)),
    ];
    redraw(this.element, parts);
  }

  #actions(group) {
    const button = (name, label, click, kind = "") => h("button", { class: `button ${kind}`, type: "button", on: { click } }, icon(name), label);
    const row = h("div", { class: "actions start" });
    if (this.page.session.can_act) {
      if (group.open) row.append(button("retry", `Retry ${count(group.open)} open`, () => this.#retry(group), "primary"));
      if (group.waiting) row.append(button("cancel", `Cancel ${count(group.waiting)} waiting`, () => this.#cancel(group), "danger"));
      if (group.ignored) row.append(button("play", "Show again", () => this.#show(group)));
      else row.append(button("pause", "Ignore…", () => this.#ignore(group)));
    }
    row.append(copyLink(`?${new URLSearchParams({ view: "failures", fingerprint: group.fingerprint })}`));
    return row;
  }

  async #retry(group) {
    const given = await asked(`Retry ${plural(group.open, "task")}?`, "Each open task of this group is enqueued again as a new task; the failed ones stay in the history.", "Retry them");
    if (!given) return;
    await this.#run("bulk-retry", { fingerprint: group.fingerprint, limit: MOST, reason: given.reason }, (out) => {
      const skipped = out.skipped.length ? `, ${out.skipped.length} skipped: ${out.skipped[0].reason}` : "";
      return out.status === "running" ? `${plural(out.matched, "task")} are being enqueued again` : `${plural(out.retried.length, "task")} enqueued again${skipped}`;
    });
  }

  async #cancel(group) {
    const given = await asked(`Cancel ${plural(group.waiting, "waiting task")}?`, "They wait for another attempt after this failure, and will not run again.", "Cancel them", { danger: true });
    if (!given) return;
    const done = (out) => (out.status === "running" ? `${plural(out.matched, "task")} are being cancelled` : `${plural(out.cancelled.length, "task")} cancelled`);
    await this.#run("bulk-cancel", { fingerprint: group.fingerprint, status: "pending", limit: MOST, reason: given.reason }, done);
  }

  async #ignore(group) {
    const given = await asked("Ignore this group?", "It is left out of the list until then, or until it rises: more than twice as many failures within an hour as now.", "Ignore it", { options: TIMES });
    if (given) await this.#run(`failures/${group.fingerprint}/ignore`, { until: given.option, reason: given.reason }, () => "Ignored");
  }

  async #show(group) {
    if (await this.page.attempt(() => this.page.api.act("DELETE", `failures/${group.fingerprint}/ignore`), "Shown again")) await this.changed();
  }

  async #run(path, params, done) {
    const said = (out) => ({ text: done(out), href: operationLink(out.operation_id) });
    const out = await this.page.attempt(() => this.page.api.act("POST", path, { params }), said);
    // What takes longer is followed in its record.
    if (out?.operation_id && out.status === "running") this.page.open({ view: "operation", id: out.operation_id });
    else if (out) await this.changed();
  }
}

function sample(task) {
  return h(
    "li",
    {},
    pill(task.status),
    h("a", { class: "mono", href: `?view=task&id=${encodeURIComponent(task.task_id)}`, text: shortId(task.task_id), title: task.task_id }),
    h("span", { class: "muted", text: ago(task.end_time ?? task.created_at), title: full(task.end_time ?? task.created_at) }),
    h("span", { class: "muted", text: `${plural(task.attempt + 1, "attempt")}, ${duration(task.duration)}` }),
    task.retried_by ? h("a", { class: "muted", href: `?view=task&id=${encodeURIComponent(task.retried_by)}`, text: "retried" }) : null,
  );
}

import { asked, empty, h, icon, pill, redraw, setShown, tableRow } from "./dom.js";
import { ago, clock, count, full, until } from "./format.js";

const COLUMNS = ["Schedule", "Rule", "Next run", "Last run", "Failed runs", "Missed", "Errors", "Actions"];

/** The schedules with their next and last run; operators run them now, pause and resume them. */
export class SchedulesView {
  constructor(page, root) {
    this.page = page;
    this.body = h("tbody");
    this.blank = empty("No schedules", "Declare one: @task_manager.schedule(every=60) or schedule_once(…).");
    this.blank.hidden = true;
    this.table = h(
      "table",
      { class: "plain schedules" },
      h("thead", {}, h("tr", {}, COLUMNS.map((text) => h("th", { scope: "col", text })))),
      this.body,
    );
    root.append(
      h("div", { class: "view-head" }, h("h1", { text: "Schedules" }), h("span", { class: "muted", text: "failed runs: of the last 24 hours; missed firings and errors while firing: on all living instances since their start" })),
      h("section", { class: "card flush" }, this.table, this.blank),
    );
  }

  async refresh() {
    const schedules = await this.page.api.get("schedules");
    redraw(this.body, schedules.map((schedule) => this.#row(schedule)));
    setShown(this.blank, schedules.length === 0);
    setShown(this.table, schedules.length > 0);
  }

  poll() {
    return this.refresh();
  }

  #row(schedule) {
    const { name, func_name, kind, paused } = schedule;
    const next = paused ? [h("span", { class: "pill", data: { status: "pending" }, text: "paused" }), pausedBy(schedule)] : h("span", { text: until(schedule.next_run), title: full(schedule.next_run) });
    const last = schedule.last_task_id
      ? h("a", { href: `?${new URLSearchParams({ view: "task", id: schedule.last_task_id })}`, text: ago(schedule.last_run), title: full(schedule.last_run) })
      : h("span", { class: "muted", text: schedule.last_run ? ago(schedule.last_run) : "–" });
    const zone = schedule.timezone === "UTC" ? null : h("span", { class: "muted", text: ` ${schedule.timezone}` });
    const errors = h("span", { text: count(schedule.errors), title: schedule.last_error });
    if (schedule.errors) errors.className = "bad";
    return tableRow(
      COLUMNS,
      { data: { key: name } },
      h("td", {}, h("strong", { text: name }), name === func_name ? null : h("span", { class: "muted", text: ` ${func_name}` })),
      h("td", { class: "mono" }, kind === "once" ? `once, ${clock(schedule.next_run)}` : schedule.rule, zone),
      h("td", {}, next),
      h("td", {}, last, schedule.last_status && schedule.last_status !== "success" ? h("span", {}, " ", pill(schedule.last_status)) : null),
      h("td", { class: "mono" }, kind === "once" ? null : failedRuns(schedule)),
      h("td", { class: "mono", text: kind === "once" ? "" : count(schedule.missed) }),
      h("td", { class: "mono" }, kind === "once" ? null : errors),
      h("td", { class: "row-actions" }, kind === "once" || !this.page.session.can_act ? null : this.#actions(schedule)),
    );
  }

  #actions({ name, paused }) {
    const path = `schedules/${encodeURIComponent(name)}`;
    const act = async (verb, done) => {
      const params = {};
      if (verb === "pause") {
        const given = await asked(`Pause ${name}?`, "It does not fire on any instance until it is resumed.", "Pause the schedule");
        if (!given) return;
        params.reason = given.reason;
      }
      await this.page.attempt(() => this.page.api.act("POST", `${path}/${verb}`, { params }), done);
      await this.page.refresh();
    };
    const button = (verb, title, symbol, done) =>
      h("button", { class: "button small", type: "button", on: { click: () => act(verb, done) } }, symbol ? icon(symbol) : null, title);
    return [
      button("run", "Run now", "play", `${name} runs`),
      paused ? button("resume", "Resume", "retry", `${name} resumed`) : button("pause", "Pause", "pause", `${name} paused`),
    ];
  }
}

/** Who paused it, when and why. */
function pausedBy({ paused_by: by, paused_since: since, paused_reason: reason }) {
  const text = [by ? `by ${by}` : "", since ? ago(since) : ""].filter(Boolean).join(" ");
  return h("span", { class: "muted pause", text: `${text}${reason ? `: ${reason}` : ""}`, title: full(since) });
}

/** The runs that failed, with a link to them; those of other sources are among them. */
function failedRuns({ func_name, failed_runs }) {
  if (!failed_runs) return failed_runs === null ? "–" : "0";
  return h("a", { class: "bad", href: `?${new URLSearchParams({ view: "tasks", status: "failed", func_name })}`, text: count(failed_runs) });
}

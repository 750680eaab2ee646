import { copyable, empty, h, redraw, setShown, tableRow } from "./dom.js";
import { ago, clock, count, full, plural, secondsBetween, shortId } from "./format.js";
import { INSTANCE_STATES } from "./vocabulary.js";

const SHOWN = 5;
const COLUMNS = ["State", "Instance", "Kind", "Host", "Process", "Started", "Heartbeat", "Left behind"];

/** The processes that share the backend. */
export class InstancesView {
  constructor(page, root) {
    this.page = page;
    this.body = h("tbody");
    this.blank = empty("No instances", "Instances appear with a backend that several processes share.");
    this.blank.hidden = true;
    this.table = h(
      "table",
      { class: "plain" },
      h("thead", {}, h("tr", {}, COLUMNS.map((text) => h("th", { scope: "col", text })))),
      this.body,
    );
    root.append(h("div", { class: "view-head" }, h("h1", { text: "Instances" })), h("section", { class: "card flush" }, this.table, this.blank));
  }

  async refresh() {
    const instances = await this.page.api.get("instances");
    instances.sort((a, b) => rank(a) - rank(b) || b.started_at.localeCompare(a.started_at));
    redraw(this.body, instances.map(row));
    setShown(this.blank, instances.length === 0);
    setShown(this.table, instances.length > 0);
  }

  poll() {
    return this.refresh();
  }
}

function rank(instance) {
  return INSTANCE_STATES.indexOf(instance.state);
}

function row(instance) {
  const late = instance.state === "alive" && secondsBetween(instance.heartbeat_at) > instance.lease_seconds;
  const state = late ? "late" : instance.state;
  const status = { alive: "success", late: "pending", dead: "failed", stopped: "cancelled" }[state] ?? "cancelled";
  return tableRow(
    COLUMNS,
    { data: { key: instance.instance_id } },
    h("td", {}, h("span", { class: "pill", data: { status }, text: state })),
    h("td", {}, copyable(instance.instance_id), instance.answering ? h("span", { class: "tag", text: "answers you" }) : null),
    h("td", {}, instance.kind ?? "", instance.release ? h("span", { class: "tag", text: instance.release, title: "release" }) : null),
    h("td", { class: "mono clip", text: instance.host.split("|")[0], title: instance.host }),
    h("td", { class: "mono", text: String(instance.pid) }),
    h("td", { class: "mono", text: clock(instance.started_at), title: full(instance.started_at) }),
    h("td", { text: ago(instance.heartbeat_at), title: full(instance.heartbeat_at) }),
    h("td", {}, left(instance)),
  );
}

/** What a dead instance was doing when it died, with links to the first of these tasks. */
function left(instance) {
  if (!instance.interrupted_number && !instance.moved) return instance.state === "dead" ? h("span", { class: "muted", text: "nothing" }) : null;
  const links = instance.interrupted.slice(0, SHOWN).map((id) => h("a", { class: "mono tag", href: `?${new URLSearchParams({ view: "task", id })}`, text: shortId(id), title: id }));
  const more = instance.interrupted_number > SHOWN ? ` and ${count(instance.interrupted_number - SHOWN)} more` : "";
  return [
    instance.interrupted_number ? h("span", {}, `${plural(instance.interrupted_number, "running task")}: `, links, more) : null,
    instance.moved ? h("span", { class: "muted", text: ` ${plural(instance.moved, "waiting task")} moved to others` }) : null,
  ];
}

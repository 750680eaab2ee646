import { activity, LAYERS, sparkline } from "./chart.js";
import { empty, h, redraw, setShown, setText } from "./dom.js";
import { clock, count, duration, plural, rate, share } from "./format.js";
import { stillWanted } from "./reading.js";
import { marked } from "./releases.js";
import { TaskRows } from "./rows.js";
import { RunningPanel } from "./running.js";

const SHOWN = 8;
const READ = 200;
const BUSIEST = 6;
const FRESH = 4000;
const WINDOWS = ["15m", "1h", "6h", "24h"];

/** The overview: the numbers of the window, the running tasks and the latest failures. */
export class OverviewView {
  constructor(page, root) {
    this.page = page;
    this.window = page.params.get("window") ?? WINDOWS[0];
    this.tiles = {
      finished: new Tile("Throughput", "finished per minute"),
      failures: new Tile("Failure share", "of finished tasks"),
      running: new Tile("Running", "now", "?view=running"),
      pending: new Tile("Pending", "now", "?view=tasks&status=pending"),
      run: new Tile("Run time p95", ""),
      wait: new Tile("Wait p95", ""),
    };
    this.chart = h("div", { class: "chart-box" });
    this.top = h("span", { class: "chart-top mono" });
    this.from = h("span");
    this.running = new RunningPanel();
    this.failed = panelOf("Latest failures", "?view=failures", (task) => task.status === "failed", "No failures", "Nothing has failed in the last 24 hours.", "end_time");
    this.types = new Types();
    this.objectives = new Objectives();
    this.switch = h(
      "div",
      { class: "segmented", role: "group", "aria-label": "Window" },
      WINDOWS.map((name) => h("button", { type: "button", text: name, "aria-pressed": String(name === this.window), on: { click: () => this.#choose(name) } })),
    );
    root.append(
      h("div", { class: "view-head" }, h("h1", { text: "Overview" }), this.switch),
      page.problems.element,
      h("section", { class: "tiles", "aria-label": "Figures" }, Object.values(this.tiles).map((tile) => tile.element)),
      h(
        "section",
        { class: "card" },
        h(
          "div",
          { class: "card-head" },
          h("h2", { text: "Activity" }),
          h("div", { class: "legend" }, LAYERS.map((name) => h("span", {}, h("i", { class: `dot-${name}` }), name))),
        ),
        h("div", { class: "chart" }, this.top, this.chart, h("div", { class: "chart-axis mono" }, this.from, h("span", { text: "now" }))),
      ),
      this.objectives.element,
      h("div", { class: "columns" }, h("div", { class: "column" }, this.running.element, this.types.element), this.failed.element),
    );
  }

  close() {
    this.running.rows.close();
    this.failed.rows.close();
  }

  async refresh() {
    await Promise.all([this.poll(), this.failed.read(this.page, { status: "failed", ended_since: "24h" })]);
  }

  change(tasks) {
    this.running.change(tasks.values());
    this.failed.change(tasks.values());
  }

  async poll() {
    const ofTypes = this.window === "24h" ? "24h" : "1h";
    const read = () =>
      Promise.all([
        this.page.api.get("overview", { window: this.window }),
        this.page.api.get("types", { window: ofTypes }),
        this.page.api.get("objectives"),
        this.page.releases.read(),
        this.running.read(this.page),
        this.page.problems.refresh(FRESH),
      ]);
    const found = await stillWanted(() => this.window, read);
    if (found === null) return;
    const [figures, types, objectives, releases] = found;
    this.objectives.show(objectives);
    this.types.show(types, ofTypes);
    const { points } = figures;
    const totals = points.map((point) => point.success + point.failed + point.other);
    const kept = figures.finished !== null;
    const basis = (middle) => (middle === null ? (kept ? "nothing finished" : "not kept by this backend") : `p50 ${duration(middle)}`);
    this.tiles.finished.show(kept ? rate(figures.finished_per_minute) : "–", kept ? `per minute, ${count(figures.finished)} finished` : basis(null), totals);
    this.tiles.failures.show(share(figures.failure_share), null, points.map((point) => point.failed), figures.failure_share >= 0.05 ? "bad" : "");
    this.tiles.running.show(count(figures.running));
    const age = figures.oldest_ready_age_seconds;
    this.tiles.pending.show(count(figures.pending), age === null ? "no task waits for a slot" : `oldest ready ${duration(age)}`);
    this.tiles.run.show(duration(figures.run_p95_seconds), basis(figures.run_p50_seconds));
    this.tiles.wait.show(duration(figures.wait_p95_seconds), basis(figures.wait_p50_seconds));
    const { chart, top, table } = activity(points);
    this.chart.replaceChildren(marked(chart, releases, Date.parse(points[0].at), figures.bucket_seconds * points.length), table);
    setText(this.top, count(top));
    setText(this.from, clock(figures.since));
  }

  #choose(name) {
    this.window = name;
    for (const button of this.switch.children) button.setAttribute("aria-pressed", String(button.textContent === name));
    this.page.remember({ view: "overview", window: name });
    this.page.refresh();
  }
}

/** The types that take most of the time, each with how many finish and how long they run. */
class Types {
  constructor() {
    this.list = h("ol", { class: "samples busiest" });
    this.note = h("span", { class: "muted" });
    this.element = h("section", { class: "card", "aria-label": "Busiest types", hidden: true }, h("div", { class: "card-head" }, h("h2", { text: "Busiest types" }), this.note, h("a", { href: "?view=types", text: "See all" })), this.list);
  }

  show({ types }, window) {
    const busy = types.filter((type) => type.finished).slice(0, BUSIEST);
    setShown(this.element, busy.length > 0);
    setText(this.note, window === "24h" ? "in 24 hours" : "in an hour");
    redraw(this.list, busy.map((type) => this.#row(type, window)));
  }

  #row(type, window) {
    return h(
      "li",
      {},
      h("span", { class: "type-spark" }, sparkline(type.points)),
      h("a", { href: `?${new URLSearchParams({ view: "type", name: type.func_name, window })}`, text: type.func_name }),
      h("span", { class: "muted", text: `${plural(type.finished, "task")}, p95 ${duration(type.run_p95_seconds)}` }),
      type.failed ? h("span", { class: "bad", text: `${share(type.failure_share)} failed` }) : null,
      h("span", { class: "num last", title: "Share of the run time of all types", text: share(type.run_share) }),
    );
  }
}

/** The task types that have an objective, each with what is left of its error budget. */
class Objectives {
  constructor() {
    this.body = h("tbody");
    const titles = ["Task", "Objective", "Since", "Good", "Bad", "Overdue", "Budget left"];
    this.element = h(
      "section",
      { class: "card", "aria-label": "Objectives", hidden: true },
      h("div", { class: "card-head" }, h("h2", { text: "Objectives" })),
      h("div", { class: "table-scroll" }, h("table", {}, h("thead", {}, h("tr", {}, titles.map((text) => h("th", { scope: "col", text })))), this.body)),
    );
  }

  show(objectives) {
    setShown(this.element, objectives.length > 0);
    redraw(this.body, objectives.map((one) => this.#row(one)));
  }

  #row(one) {
    const limit = one.within_seconds === null ? "" : ` in ${duration(one.within_seconds)}`;
    const left = one.budget_left;
    const tone = left === null || left > 0.25 ? "" : left > 0 ? "pending" : "failed";
    const text = left !== null && left < 0 ? `${Math.round(left * 100)} %` : share(left);
    return h(
      "tr",
      { data: { key: one.task } },
      h("td", {}, h("a", { href: `?view=tasks&func_name=${encodeURIComponent(one.task)}`, text: one.task })),
      h("td", { text: `${percent(one.success)}${limit}, over ${duration(one.window_seconds)}` }),
      h("td", { text: one.since === null ? "not kept by this backend" : clock(one.since) }),
      h("td", { class: "mono", text: count(one.good) }),
      h("td", { class: "mono", text: count(one.bad) }),
      h("td", { class: "mono", text: count(one.overdue) }),
      h("td", { class: "mono" }, tone ? h("span", { class: "pill", data: { status: tone }, text }) : text),
    );
  }
}

/** An objective with all of its nines. */
function percent(success) {
  return `${Number((success * 100).toPrecision(8))} %`;
}

class Tile {
  constructor(title, caption, href) {
    this.value = h("strong", { text: "–" });
    this.caption = h("small", { text: caption });
    this.spark = h("div", { class: "tile-spark" });
    this.element = h(href ? "a" : "div", { class: "tile", href }, h("span", { class: "tile-title", text: title }), this.value, this.caption, this.spark);
  }

  show(value, caption = null, values = null, tone = "") {
    setText(this.value, value);
    if (caption !== null) setText(this.caption, caption);
    if (values) this.spark.replaceChildren(sparkline(values));
    this.element.dataset.tone = tone;
  }
}

function panelOf(title, href, accepts, nothing, hint, by = "task_id") {
  const rows = new TaskRows({ accepts, limit: SHOWN, compact: true, by, onSettled: settle });
  const blank = empty(nothing, hint);
  const element = h("section", { class: "card" }, h("div", { class: "card-head" }, h("h2", { text: title }), h("a", { href, text: "See all" })), rows.table, blank);
  function settle() {
    setShown(blank, rows.size === 0);
    setShown(rows.table, rows.size > 0);
  }
  return {
    element,
    rows,
    change(deltas) {
      rows.change(deltas);
    },
    async read(page, params) {
      // By another order than that of the list, the first ones are among many.
      const { tasks, next } = await page.api.tasks({ ...params, limit: by === "task_id" ? SHOWN : READ });
      tasks.sort((one, other) => (one[by] < other[by] ? 1 : -1));
      rows.renew(tasks.slice(0, SHOWN), next ?? tasks[SHOWN]?.task_id ?? null);
    },
  };
}

// Assembles the page: session, navigation, stream, and one view at a time.

import { Api, ApiError } from "./api.js";
import { Contact } from "./contact.js";
import { h, icon, setText, toast } from "./dom.js";
import { visible } from "./exact.js";
import { showHelp } from "./help.js";
import { Notice } from "./notice.js";
import { isUtc, useUtc, zoneName } from "./now.js";
import { Problems } from "./problems.js";
import { Releases } from "./releases.js";
import { Stream } from "./stream.js";
import { RunningView } from "./running.js";
import { AuditView } from "./view_audit.js";
import { FailuresView } from "./view_failures.js";
import { InstancesView } from "./view_instances.js";
import { OperationsView, OperationView } from "./view_operations.js";
import { OverviewView } from "./view_overview.js";
import { QueuesView } from "./view_queues.js";
import { SchedulesView } from "./view_schedules.js";
import { TaskView } from "./view_task.js";
import { TasksView } from "./view_tasks.js";
import { TypeView } from "./view_type.js";
import { TypesView } from "./view_types.js";

const VIEWS = {
  overview: { title: "Overview", view: OverviewView },
  tasks: { title: "Tasks", view: TasksView },
  failures: { title: "Failures", view: FailuresView },
  types: { title: "Types", view: TypesView },
  queues: { title: "Queues", view: QueuesView },
  schedules: { title: "Schedules", view: SchedulesView },
  instances: { title: "Instances", view: InstancesView },
  audit: { title: "Audit", view: AuditView },
  task: { title: "Task", view: TaskView, under: "tasks" },
  running: { title: "Running", view: RunningView, under: "overview" },
  operations: { title: "Bulk operations", view: OperationsView, under: "audit" },
  operation: { title: "Bulk operation", view: OperationView, under: "audit" },
  type: { title: "Type", view: TypeView, under: "types" },
};
/** What an address leads to that names no view. */
class UnknownView {
  constructor(page, root) {
    this.name = page.params.get("view");
    root.append(h("div", { class: "view-head" }, h("h1", { text: "No such view" })));
  }

  async refresh() {
    throw new ApiError(404, `There is no view “${this.name}”.`);
  }
}

const STATES = { live: "Live", connecting: "Connecting…", paused: "Paused" };
const FIRST_OPEN_PATIENCE = 1500;
const STREAM_PATIENCE = 2500;
const SYNC = 60000;
const PROBLEMS = 30000;

class Page {
  #view = null;
  #main = document.getElementById("main");
  #root = null;
  #title = "";
  #links = new Map();
  #polled = 0;
  #readings = 0;
  #held = [];

  async start() {
    this.api = new Api((answered) => (answered ? this.contact.heard() : this.contact.lost()));
    this.contact = new Contact({ probe: () => this.api.session(), onChange: () => this.#contactChanged() });
    this.notice = new Notice(this.#main, () => this.refresh());
    this.session = await this.api.session();
    this.problems = new Problems(this, () => this.#entitle());
    this.releases = new Releases(this.api);
    this.#buildFrame();
    this.stream = new Stream({
      onChange: (tasks, logs) => (this.#readings ? this.#held.push([tasks, logs]) : this.#view?.change?.(tasks, logs)),
      onReset: () => this.refresh(),
      onState: (state) => this.#streamChanged(state),
    });
    setInterval(() => document.hidden || this.api.session().catch(() => null), SYNC);
    const patience = new Promise((resolve) => setTimeout(resolve, FIRST_OPEN_PATIENCE, "late"));
    const late = (await Promise.race([this.stream.opened, patience])) === "late";
    addEventListener("popstate", () => this.#show());
    document.addEventListener("click", (event) => this.#follow(event));
    document.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("visibilitychange", () => this.#poll());
    this.#show();
    this.#poll();
    // The stream began after the first reading, so the changes in between are missing.
    if (late) this.stream.opened.then(() => this.refresh());
  }

  get params() {
    return new URLSearchParams(location.search);
  }

  /** Go to another view. */
  open(params) {
    history.pushState(null, "", `?${new URLSearchParams(params)}`);
    this.#show();
  }

  /** Let the view read again. Changes from the stream are applied after the answer, which may be older than they are. */
  async refresh() {
    this.#readings += 1;
    try {
      await this.#read(this.#view, (view) => view.refresh());
    } finally {
      this.#readings -= 1;
      if (!this.#readings) for (const [tasks, logs] of this.#held.splice(0)) this.#view?.change?.(tasks, logs);
    }
  }

  /** Keep the state of the current view in the address, without a step in the history. */
  remember(params) {
    const given = Object.entries(params).filter(([, value]) => value);
    history.replaceState(null, "", `?${new URLSearchParams(given)}`);
  }

  /** Do an action on the server and show its result (a text, or `{text, href}`); resolves to the answer, or null. */
  async attempt(action, done) {
    try {
      const answer = await action();
      const said = typeof done === "function" ? done(answer) : done;
      if (said) toast(said.text ?? said, "good", said.href);
      return answer;
    } catch (error) {
      toast(error.message, "error");
      return null;
    }
  }

  #show() {
    const name = this.params.get("view") ?? "overview";
    const { title, view, under } = Object.hasOwn(VIEWS, name) ? VIEWS[name] : { title: "No such view", view: UnknownView };
    this.#view?.close?.();
    this.#root = h("div", { class: "view" });
    this.notice.begin(this.#root);
    this.#main.replaceChildren(this.notice.element, this.#root);
    this.#title = title;
    this.#entitle();
    for (const [key, link] of this.#links) {
      if (key === (under ?? name)) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    this.#view = new view(this, this.#root);
    scrollTo(0, 0);
    this.refresh();
  }

  /** Name the tab, with the number of problems, which its icon has too. */
  #entitle() {
    const number = this.problems.found.length;
    document.title = visible(`${number ? `(${number}) ` : ""}${this.#title} · ${this.session.title}`);
    const tabIcon = /** @type {HTMLLinkElement | null} */ (document.querySelector("link[rel='icon']"));
    const wanted = number ? `static/icon-${Math.min(number, 10)}.svg` : "static/icon.svg";
    if (tabIcon && tabIcon.getAttribute("href") !== wanted) tabIcon.setAttribute("href", wanted);
  }

  /** Let a view read; what comes of it is said above the view. */
  async #read(view, work) {
    try {
      await work(view);
      if (view === this.#view) this.notice.ready();
    } catch (error) {
      if (view === this.#view && error.status !== 401) this.notice.failed(error);
      // An error of the page itself is none of the server.
      if (error.status === undefined) throw error;
    }
  }

  #streamChanged(state) {
    if (state === "live") this.contact.heard();
    if (this.state.dataset.state === state) return;
    this.state.dataset.state = state;
    setText(this.state.lastElementChild, STATES[state]);
    clearTimeout(this.streamTimer);
    if (state !== "connecting") this.notice.live(true);
    else this.streamTimer = setTimeout(() => this.api.session().then(() => this.notice.live(false), () => null), STREAM_PATIENCE);
  }

  #contactChanged() {
    this.notice.contact(this.contact);
    if (this.contact.since === null) this.refresh();
  }

  // Reload only what the stream does not contain, and only while the page is visible.
  #poll() {
    clearInterval(this.#polled);
    if (document.hidden) return;
    // In the overview the problems are a part of the view, and are read more often.
    const watch = () => this.problems.refresh(PROBLEMS).catch(() => null);
    const poll = (view) => (this.state.dataset.state === "live" ? view.poll?.() : view.refresh());
    let busy = false;
    const round = async () => {
      // A server that is slower than the rounds must not be asked for more and more at once.
      if (busy || this.contact.since !== null || !this.#view) return;
      busy = true;
      try {
        await Promise.all([this.#read(this.#view, poll), watch()]);
      } finally {
        busy = false;
      }
    };
    this.#polled = setInterval(round, this.session.poll_interval * 1000);
    watch();
  }

  #buildFrame() {
    const nav = document.getElementById("nav");
    for (const [name, { title, under }] of Object.entries(VIEWS)) {
      if (under) continue;
      const link = h("a", { href: `?view=${name}` }, icon(name), h("span", { text: title }));
      this.#links.set(name, link);
      nav.append(link);
    }
    this.state = h("span", { class: "live", data: { state: "connecting" } }, h("i"), h("span", { text: STATES.connecting }));
    const foot = document.getElementById("foot");
    foot.append(this.state);
    const buttons = h("span", { class: "side-buttons" });
    this.zone = h("button", { class: "zone", type: "button", on: { click: () => this.#switchZone() } });
    this.#nameZone();
    foot.append(this.zone);
    buttons.append(iconButton("help", "Keys", showHelp));
    buttons.append(iconButton("theme", "Switch between light and dark", switchTheme));
    if (this.session.can_log_out) buttons.append(iconButton("logout", `Log out ${this.session.actor}`, () => this.#logOut()));
    foot.append(buttons);
    if (this.session.actor) foot.append(h("span", { class: "who", text: this.session.actor, title: `Role: ${this.session.role}` }));
  }

  #nameZone() {
    setText(this.zone, `Times: ${zoneName()}`);
    this.zone.title = isUtc() ? "Show times in the zone of this browser" : "Show times in UTC";
  }

  #switchZone() {
    useUtc(!isUtc());
    this.#nameZone();
    this.#show();
  }

  async #logOut() {
    // No more requests after the session has ended.
    this.#view?.close?.();
    this.#view = null;
    clearInterval(this.#polled);
    this.stream.end();
    await this.attempt(() => this.api.act("POST", "logout"));
    location.assign("login");
  }

  #follow(event) {
    const link = event.target.closest("a[href^='?']");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    if (getSelection().toString() && link.contains(getSelection().anchorNode)) return;
    this.open(new URLSearchParams(link.getAttribute("href")));
    this.#main.focus({ preventScroll: true });
  }

  #key(event) {
    if (event.metaKey || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = event.target.closest("input, select, textarea");
    if (typing) {
      if (event.key === "Escape") typing.blur();
      return;
    }
    const step = { j: 1, k: -1 }[event.key];
    if (step) {
      const rows = /** @type {HTMLElement[]} */ ([...document.querySelectorAll(".row-link")]);
      rows[Math.min(Math.max(rows.findIndex((row) => row === document.activeElement) + step, 0), rows.length - 1)]?.focus();
    } else if (event.key === "?") {
      event.preventDefault();
      showHelp();
    } else if (event.key === "/") {
      const search = /** @type {HTMLElement | null} */ (document.querySelector("input[type=search]"));
      if (search) {
        event.preventDefault();
        search.focus();
      }
    }
  }
}

function iconButton(name, label, click) {
  return h("button", { class: "icon-button", type: "button", title: label, "aria-label": label, on: { click } }, icon(name));
}

function switchTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("taskflow-theme", document.documentElement.dataset.theme);
}

new Page().start().catch((error) => {
  if (error.status !== 401) toast(error.message, "error");
});

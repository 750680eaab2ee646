// The attempts of a task as rows; each opens to its own error and its own lines.

import { h, pill, redraw, setShown, setText } from "./dom.js";
import { stringify } from "./exact.js";
import { duration, full, plural, precise, secondsBetween, until } from "./format.js";
import { reasonText } from "./rows.js";
import { OUTCOMES } from "./vocabulary.js";

/** What is known of each attempt: `{attempt, instance, release, from, to, outcome, failure, reason}`, the first one first. */
export function attemptsOf(task) {
  const found = new Map();
  for (const entry of task.timeline) {
    if (entry.transition === "started") {
      found.set(entry.attempt, { attempt: entry.attempt, instance: entry.instance, release: task.releases?.[entry.instance] ?? null, from: entry.timestamp, to: null, outcome: null, reason: null, failure: null });
    } else if (found.has(entry.attempt) && OUTCOMES[entry.transition] && !found.get(entry.attempt).to) {
      Object.assign(found.get(entry.attempt), { to: entry.timestamp, outcome: OUTCOMES[entry.transition], reason: entry.reason });
    }
  }
  for (const failure of task.failures ?? []) if (found.has(failure.attempt)) found.get(failure.attempt).failure = failure;
  return [...found.values()];
}

/** The card with a row for each attempt. A row that did not change stays as it is, with what its reader did to it. */
export class Attempts {
  constructor() {
    this.number = h("span", { class: "muted" });
    this.element = h("section", { class: "card", hidden: true, "aria-label": "Attempts" }, h("div", { class: "card-head" }, h("h2", { text: "Attempts" }), this.number));
    this.rows = new Map();
  }

  /** Show the attempts of a task. `lines`: the lines of its log. */
  draw(task, lines) {
    const all = attemptsOf(task);
    const failed = task.status === "success" ? null : all.findLast((one) => one.failure);
    for (const one of all) {
      const own = lines.filter((line) => line.attempt === one.attempt);
      const latest = one === all.at(-1);
      // The run time of the latest attempt was measured; those before it are known from their moments alone.
      const seconds = latest && task.duration !== null ? task.duration : secondsBetween(one.from, one.to);
      const shown = {
        ...one,
        took: one.to ? duration(seconds) : "runs",
        retry: one.failure?.retry_at ? retryText(one.failure.retry_at, latest && task.status === "pending") : null,
        // The error of the task is that of its newest failure, and the page shows it in full above.
        above: one.failure === task.failures?.at(-1) && task.causes?.length > 0,
      };
      this.#row(shown, own, one === failed);
    }
    setText(this.number, plural(all.length, "attempt"));
    setShown(this.element, all.length > 0);
  }

  #row(shown, lines, newest) {
    const known = this.rows.get(shown.attempt);
    const state = stringify([shown, lines.length]);
    if (known?.state === state) return;
    const drawn = /** @type {HTMLDetailsElement} */ (row(shown, lines));
    const element = known?.element ?? drawn;
    if (known) redraw(element, [...drawn.childNodes]);
    else this.element.append(element);
    // The newest failure is open from its end on, until its reader closes it.
    element.open ||= newest && known?.outcome !== shown.outcome;
    this.rows.set(shown.attempt, { state, element, outcome: shown.outcome });
  }
}

function retryText(moment, waiting) {
  return waiting ? `The next attempt is planned ${until(moment)}.` : `The next attempt was planned for ${precise(moment)}.`;
}

function row(shown, lines) {
  const { failure } = shown;
  const name = `Attempt ${shown.attempt + 1}`;
  const said = failure ? [failure.error_type, failure.error?.split("\n", 1)[0]].filter(Boolean).join(": ") : reasonText(shown.reason);
  const error = shown.above ? null : failure;
  return h(
    "details",
    { class: "attempt-row", data: { attempt: shown.attempt } },
    h(
      "summary",
      {},
      h("span", { class: "attempt-name", text: name }),
      pill(shown.outcome ?? "running"),
      h("span", { class: "mono attempt-error", text: said }),
      h("span", { class: "muted", text: shown.took }),
    ),
    h(
      "div",
      { class: "attempt-body" },
      h("p", { class: "muted", text: `${precise(shown.from)} on ${shown.instance}${shown.release ? `, release ${shown.release}` : ""} · ${lines.length ? plural(lines.length, "line") : "no lines"}`, title: full(shown.from) }),
      shown.retry ? h("p", { class: "muted", text: shown.retry, title: full(failure.retry_at) }) : null,
      error?.error ? h("p", { class: "mono cause-error", text: error.error }) : null,
      error?.frames.length ? h("ol", { class: "frames" }, error.frames.map((frame) => h("li", { class: "mono frame own", text: frame }))) : null,
      lines.length ? h("div", { class: "attempt-lines", role: "group", tabindex: "0", "aria-label": `Lines of ${name.toLowerCase()}` }, lines.map(written)) : null,
    ),
  );
}

function written(line) {
  return h("p", { class: "mono attempt-line", data: { level: line.level } }, h("span", { class: "log-time", text: precise(line.timestamp), title: full(line.timestamp) }), h("span", { text: line.message }));
}

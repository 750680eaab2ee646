// The releases of the application as marks over a chart.

import { h } from "./dom.js";
import { clock, full } from "./format.js";
import { real } from "./now.js";

const FRESH = 30000;
/** The last part of a chart, in which the name of a release is written to the left of its mark. */
const RIGHT = 0.75;

/** Reads when each release was first seen; all charts of the page share one reading. */
export class Releases {
  #read = 0;
  #found = [];

  constructor(/** @type {import("./api.js").Api} */ api) {
    this.api = api;
  }

  async read() {
    if (real() - this.#read > FRESH) {
      this.#found = await this.api.get("releases");
      this.#read = real();
    }
    return this.#found;
  }
}

/**
 * A chart with a mark for each release that was first seen in its time.
 *
 * @param {Element} chart
 * @param {{release: string, at: string}[]} releases
 * @param {number} since the beginning of its first column, in milliseconds
 * @param {number} seconds how long all columns are
 */
export function marked(chart, releases, since, seconds) {
  const marks = releases
    .map((one) => ({ ...one, place: (Date.parse(one.at) - since) / (seconds * 1000) }))
    .filter(({ place }) => place >= 0 && place <= 1)
    .map(({ release, at, place }) => {
      const mark = h("span", { class: `mark ${place > RIGHT ? "left" : ""}`, title: `Release ${release}, first seen ${full(at)}` }, h("span", { class: "mark-name", text: release }));
      mark.style.left = `${(place * 100).toFixed(2)}%`;
      return mark;
    });
  const said = marks.length ? h("span", { class: "offscreen", text: `Releases: ${releases.map(({ release, at }) => `${release} at ${clock(at)}`).join(", ")}` }) : null;
  return h("div", { class: "marked" }, chart, marks, said);
}

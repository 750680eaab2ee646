// Run times over time: how many tasks ran for how long, as the darkness of cells.

import { heard } from "./chart.js";
import { h, s } from "./dom.js";
import { clock, count, duration } from "./format.js";

const LABELS = 7;

/**
 * `bands`: the run times with which the rows begin; `heat`: the numbers of each column. `since`: the beginning, in
 * milliseconds; `seconds`: the width of a column. `around(chart)`: the chart with what lies over it.
 */
export function heatmap(bands, heat, since, seconds, around = (chart) => chart) {
  const top = Math.max(...heat.flat(), 1);
  const total = heat.flat().reduce((sum, cell) => sum + cell, 0);
  const end = (row) => bands[row + 1] ?? bands[row] * 2;
  const chart = s("svg", {
    class: "heat",
    viewBox: `0 0 ${heat.length} ${bands.length}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  });
  const at = (x) => clock(new Date(since + x * seconds * 1000).toISOString());
  const ran = (cell, row) => `${count(cell)} ran ${duration(bands[row])} to ${duration(end(row))}`;
  heat.forEach((column, x) =>
    column.forEach((cell, row) => {
      if (!cell) return;
      // By the logarithm: one slow task among thousands of fast ones is what people look for.
      const shade = 0.16 + (0.84 * Math.log1p(cell)) / Math.log1p(top);
      const rect = s("rect", { class: "heat-cell", x, y: bands.length - 1 - row, width: 1, height: 1, "fill-opacity": shade.toFixed(3) });
      rect.append(s("title", { text: `${at(x)}\n${ran(cell, row)}` }));
      chart.append(rect);
    }),
  );
  const step = Math.ceil(bands.length / LABELS);
  const scale = bands.map((band, row) => h("span", { text: row % step ? "" : duration(band) })).reverse();
  const caption = `Run times of ${count(total)} tasks, from ${duration(bands[0])} to ${duration(end(bands.length - 1))}`;
  const rows = heat.map((column, x) => [at(x), column.map((cell, row) => (cell ? ran(cell, row) : "")).filter(Boolean).join("; ")]);
  const table = heard(caption, ["From", "Tasks"], rows.filter(([, text]) => text));
  return h("div", { class: "heat-box" }, h("div", { class: "heat-scale mono", "aria-hidden": "true" }, scale), around(chart), table);
}

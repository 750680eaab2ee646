// Small charts as SVG.

import { h, s } from "./dom.js";
import { clock } from "./format.js";

/** What a chart shows, as a table for those who hear it. */
export function heard(caption, heads, rows) {
  return h(
    "table",
    { class: "heard" },
    h("caption", { text: caption }),
    h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col", text })))),
    h("tbody", {}, rows.map(([head, ...cells]) => h("tr", {}, h("th", { scope: "row", text: head }), cells.map((text) => h("td", { text }))))),
  );
}

/** A line over its area; decoration next to its number. */
export function sparkline(values) {
  const [width, height] = [120, 32];
  const top = Math.max(...values, 1e-9);
  const x = (index) => (index / Math.max(1, values.length - 1)) * width;
  const y = (value) => height - 2 - (value / top) * (height - 5);
  const line = values.map((value, index) => `${index ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  return s(
    "svg",
    { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("path", { class: "spark-area", d: `${line}L${width} ${height}L0 ${height}Z` }),
    s("path", { class: "spark-line", d: line }),
  );
}

/** How many tasks failed in each part of a window, as bars. `since`: its beginning, in milliseconds. */
export function occurrences(points, since, seconds) {
  const [width, height] = [600, 64];
  const top = Math.max(...points, 1);
  const step = width / points.length;
  const at = (index) => clock(new Date(since + index * seconds * 1000).toISOString());
  const total = points.reduce((sum, point) => sum + point, 0);
  const chart = s("svg", { class: "occurrences", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  chart.append(s("line", { class: "grid", x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5 }));
  points.forEach((point, index) => {
    const size = point ? Math.max(2, (point / top) * (height - 4)) : 0;
    const bar = s("g", { class: "bar" }, s("rect", { class: "bar-hit", x: index * step, y: 0, width: step, height }), s("rect", { class: "bar-failed", x: index * step + 1, y: height - size, width: Math.max(1, step - 2), height: size }));
    bar.append(s("title", { text: `${at(index)}\n${point} failed` }));
    chart.append(bar);
  });
  return h("div", {}, chart, heard(`${total} failures since ${at(0)}`, ["From", "Failed"], points.map((point, index) => [at(index), point]).filter(([, point]) => point)));
}

export const LAYERS = ["success", "failed", "other"];

/** The outcomes of the tasks in each part of the window, stacked. */
export function activity(points) {
  const [width, height, gap] = [900, 150, 4];
  const top = niceTop(Math.max(...points.map((point) => LAYERS.reduce((sum, layer) => sum + point[layer], 0))));
  const step = width / points.length;
  const total = (layer) => points.reduce((sum, point) => sum + point[layer], 0);
  const chart = s("svg", {
    class: "activity",
    viewBox: `0 0 ${width} ${height}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  });
  for (const part of [0.5, 1]) {
    const y = height - part * (height - 4);
    chart.append(s("line", { class: "grid", x1: 0, x2: width, y1: y, y2: y }));
  }
  points.forEach((point, index) => {
    let y = height;
    const bar = s("g", { class: "bar" });
    bar.append(s("rect", { class: "bar-hit", x: index * step, y: 0, width: step, height }));
    for (const layer of LAYERS) {
      if (!point[layer]) continue;
      const size = Math.max(2, (point[layer] / top) * (height - 4));
      y -= size;
      bar.append(s("rect", { class: `bar-${layer}`, x: index * step + gap / 2, y, width: step - gap, height: size }));
    }
    const parts = LAYERS.filter((layer) => point[layer]).map((layer) => `${point[layer]} ${layer}`);
    bar.append(s("title", { text: `${clock(point.at)}\n${parts.join("\n") || "nothing"}` }));
    chart.append(bar);
  });
  const caption = `Tasks by the time they ended: ${LAYERS.map((layer) => `${total(layer)} ${layer}`).join(", ")}`;
  const rows = points.filter((point) => LAYERS.some((layer) => point[layer])).map((point) => [clock(point.at), ...LAYERS.map((layer) => point[layer])]);
  return { chart, top, table: heard(caption, ["From", ...LAYERS], rows) };
}

function niceTop(value) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(1, value)));
  return [1, 2, 4, 5, 10].map((factor) => factor * unit).find((edge) => edge >= value) ?? Math.max(2, value);
}

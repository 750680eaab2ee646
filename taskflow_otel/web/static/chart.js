// Small charts as SVG.

import { s } from "./dom.js";
import { clock } from "./format.js";

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
  const total = points.reduce((sum, point) => sum + point, 0);
  const chart = s("svg", { class: "occurrences", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `${total} failures since ${clock(new Date(since).toISOString())}` });
  chart.append(s("line", { class: "grid", x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5 }));
  points.forEach((point, index) => {
    const size = point ? Math.max(2, (point / top) * (height - 4)) : 0;
    const bar = s("g", { class: "bar" }, s("rect", { class: "bar-hit", x: index * step, y: 0, width: step, height }), s("rect", { class: "bar-failed", x: index * step + 1, y: height - size, width: Math.max(1, step - 2), height: size }));
    bar.append(s("title", { text: `${clock(new Date(since + index * seconds * 1000).toISOString())}\n${point} failed` }));
    chart.append(bar);
  });
  return chart;
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
    role: "img",
    "aria-label": `Tasks by the time they ended: ${LAYERS.map((layer) => `${total(layer)} ${layer}`).join(", ")}`,
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
  return { chart, top };
}

function niceTop(value) {
  const unit = 10 ** Math.floor(Math.log10(Math.max(1, value)));
  return [1, 2, 4, 5, 10].map((factor) => factor * unit).find((edge) => edge >= value) ?? Math.max(2, value);
}

// Lines over the last minutes, drawn as SVG.

import { h } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, TOP, BOTTOM] = [600, 150, 52, 10, 18];

/**
 * A chart of samples. `lines`: [{name, of: (sample) => number or null}]; `text`: how a value is written.
 * Points lie a second apart, the newest at the right.
 */
export function chart(title, samples, lines, text, seconds = 300) {
  const shown = samples.slice(-seconds);
  const values = lines.map((line) => shown.map((sample) => line.of(sample) ?? null));
  const most = nice(Math.max(0, ...values.flat().filter((value) => value !== null)));
  const x = (place) => LEFT + ((WIDTH - LEFT) * (seconds - shown.length + place)) / Math.max(1, seconds - 1);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / most);
  const latest = lines.map((line, at) => `${line.name} ${text(values[at].findLast((value) => value !== null) ?? null)}`);
  return h("figure.chart", null,
    h("figcaption", null, h("strong", null, title), " ",
      lines.map((line, at) => h("span.legend", null, h(`i.line${at}`), latest[at]))),
    h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${latest.join(", ")}`},
      [0, 0.5, 1].filter((share) => share !== 0.5 || text(most / 2) !== text(most)).map((share) => h("g.grid", null,
        h("line", { x1: LEFT, x2: WIDTH, y1: y(most * share), y2: y(most * share) }),
        h("text", { x: LEFT - 6, y: y(most * share) + 4, "text-anchor": "end" }, text(most * share)))),
      values.map((line, at) => h(`path.line${at}`, { d: path(line, x, y) })),
      h("text.axis", { x: LEFT, y: HEIGHT - 2 }, `${Math.round(seconds / 60)} min ago`),
      h("text.axis", { x: WIDTH, y: HEIGHT - 2, "text-anchor": "end" }, "now")));
}

// Where nothing was measured there is no line.
function path(values, x, y) {
  let out = "";
  let drawing = false;
  values.forEach((value, place) => {
    if (value === null) {
      drawing = false;
      return;
    }
    out += `${drawing ? "L" : "M"}${x(place).toFixed(1)} ${y(value).toFixed(1)}`;
    // One second alone would be too small to see.
    if (!drawing && (values[place + 1] ?? null) === null) out += "m-2 0a2 2 0 1 0 4 0a2 2 0 1 0 -4 0";
    drawing = true;
  });
  return out || "M0 0";
}

// The next of 1, 2, 5, 10, 20, …
function nice(value) {
  if (!(value > 0)) return 1;
  const ten = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * ten).find((step) => step >= value);
}

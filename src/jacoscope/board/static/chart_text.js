/**
 * What a line chart says in words, as numbers, and as a picture with its legend.
 *
 * @module chart_text
 */

import { extent, isBand } from "./align.js";
import { h } from "./dom.js";
import { csv, number, step } from "./format.js";
import { drawSwatch } from "./glyphs.js";
import { theme } from "./theme.js";

const NAMED = 8;
const FAULTS = [
  [1, "nan"],
  [2, "∞"],
  [4, "−∞"],
];

/** The value of a series at one of its columns. */
export function seriesText(one, index) {
  const faults = one.flags
    ? FAULTS.filter(([bit]) => one.flags[index] & bit).map(([, word]) => word)
    : [];
  const low = one.low?.[index];
  const high = one.high?.[index];
  const value = one.value?.[index];
  let text = "";
  if (Number.isFinite(value)) text = number(value);
  if (Number.isFinite(low) && Number.isFinite(high)) {
    const range = low === high ? number(low) : `${number(low)} – ${number(high)}`;
    if (text === "") text = range;
    else if (low !== high) text = `${text} (${range})`;
  }
  if (faults.length > 0) return text === "" ? faults.join(", ") : `${text}, ${faults.join(", ")}`;
  return text === "" ? "no value" : text;
}

/** The name of the y axis, which stands above it. */
export function axisName({ yLabel, log }) {
  return log ? `${yLabel}, log scale` : yLabel;
}

/** The text alternative of a chart. */
export function summary(spec) {
  if (spec.describe) return typeof spec.describe === "function" ? spec.describe() : spec.describe;
  const place = spec.xFormat ?? step;
  const lines = spec.series.slice(0, NAMED).map((one) => {
    const last = one.x.length - 1;
    if (last < 0) return `${one.label}: no values`;
    const range = extent([one.low, one.high, one.value].filter(Boolean));
    const span = range ? `from ${number(range[0])} to ${number(range[1])}, ` : "";
    return `${one.label}: ${span}last ${seriesText(one, last)} at ${place(one.x[last])}`;
  });
  const more = spec.series.length - lines.length;
  const axes = `${spec.yLabel} over ${spec.xLabel}${spec.log ? ", logarithmic axis" : ""}.`;
  const rest = more > 0 ? ` And ${more} more.` : "";
  return `${spec.title}. Line chart: ${axes} ${lines.join("; ")}.${rest} Arrow keys read values.`;
}

/** The numbers of a chart, one line per series and column. */
export function chartCsv(spec) {
  const banded = spec.series.some(isBand);
  const valued = spec.series.some((one) => one.value);
  const flagged = spec.series.some((one) => one.flags);
  const heading = ["series", spec.xLabel];
  if (banded) heading.push("low", "high");
  if (valued || !banded) heading.push("value");
  if (flagged) heading.push("not_finite");
  const rows = [heading];
  for (const one of spec.series) {
    for (let index = 0; index < one.x.length; index += 1) {
      const row = [one.label, one.x[index]];
      if (banded) row.push(one.low?.[index] ?? null, one.high?.[index] ?? null);
      if (valued || !banded) row.push((one.value ?? one.high ?? one.low)[index]);
      if (flagged) {
        const bits = one.flags?.[index] ?? 0;
        row.push(
          FAULTS.filter(([bit]) => bits & bit)
            .map(([, word]) => word.replace("∞", "inf").replace("−", "-"))
            .join(" "),
        );
      }
      rows.push(row);
    }
  }
  return csv(rows);
}

/** The plot with its legend below it. */
export function chartPicture(plot, spec) {
  const ratio = window.devicePixelRatio;
  const source = plot.ctx.canvas;
  const width = source.width / ratio;
  const font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const canvas = h("canvas");
  const context = canvas.getContext("2d");
  context.font = font;
  const places = [];
  let left = 0;
  let line = 0;
  for (const one of spec.series) {
    const wide = 28 + 6 + context.measureText(one.label).width + 18;
    if (left > 0 && left + wide > width) {
      left = 0;
      line += 1;
    }
    places.push({ one, left, line });
    left += wide;
  }
  const head = 20;
  canvas.width = source.width;
  canvas.height = source.height + Math.round(((line + 1) * 18 + 8 + head) * ratio);
  canvas.dataset.ratio = String(ratio);
  context.drawImage(source, 0, head * ratio);
  context.scale(ratio, ratio);
  context.font = font;
  context.textBaseline = "middle";
  context.fillStyle = theme.token("--muted");
  context.fillText(axisName(spec), 0, head / 2);
  for (const { one, left: x, line: row } of places) {
    const y = head + source.height / ratio + 12 + row * 18;
    drawSwatch(context, one, x, y);
    context.fillStyle = theme.token("--text");
    context.fillText(one.label, x + 34, y);
  }
  return canvas;
}

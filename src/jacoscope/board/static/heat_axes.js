/**
 * What stands around a heat map: the axis of steps, the colour bar, and the picture of all of it.
 *
 * @module heat_axes
 */

import { css, valueAt } from "./colors.js";
import { clear, h } from "./dom.js";
import { number, step } from "./format.js";
import { chip, drawCells, drawChip } from "./heat_paint.js";
import { theme } from "./theme.js";

const TICK_APART = 78;
const BAR = { width: 190, height: 12 };
const AXIS_HEIGHT = 36;
const HIGHEST_PICTURE = 8000;
const WORDS = { fault: "not finite (nan, ∞)", missing: "no value", below: "zero or below" };

/** A canvas that is sharp on this screen, and its context in CSS pixels. */
export function sharp(canvas, width, height) {
  const ratio = window.devicePixelRatio;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

export function font(size = 12) {
  return `${size}px ${getComputedStyle(document.body).fontFamily}`;
}

/** Ticks under columns: every column has the same width, whatever the distance of its steps. */
export function drawColumnAxis(context, { left, top, width, columns, label }) {
  const count = columns.length;
  if (count === 0) return;
  const cell = width / count;
  const stride = Math.max(1, Math.ceil(count / Math.max(1, Math.floor(width / TICK_APART))));
  context.font = font();
  context.fillStyle = context.strokeStyle = theme.token("--muted");
  context.lineWidth = 1;
  context.textBaseline = "top";
  let free = -Infinity;
  for (let column = 0; column < count; column += stride) {
    const x = left + (column + 0.5) * cell;
    const text = step(columns[column]);
    const half = context.measureText(text).width / 2;
    const middle = Math.min(Math.max(x, left + half), left + width - half);
    if (middle - half < free) continue;
    context.fillRect(Math.round(x), top, 1, 4);
    context.textAlign = "center";
    context.fillText(text, middle, top + 6);
    free = middle + half + 10;
  }
  context.textAlign = "center";
  context.fillText(label, left + width / 2, top + 21);
}

/** A colour bar with its ends, its middle and its unit. */
export function drawColorBar(context, scale, { left, top, width = BAR.width }) {
  for (let x = 0; x < width; x += 1) {
    context.fillStyle = css(scale.colors, Math.floor((x / width) * 256));
    context.fillRect(left + x, top, 1.5, BAR.height);
  }
  context.strokeStyle = theme.token("--line");
  context.strokeRect(left + 0.5, top + 0.5, width, BAR.height - 1);
  context.font = font();
  context.fillStyle = theme.token("--muted");
  context.textBaseline = "top";
  for (const [share, align] of [
    [0, "left"],
    [0.5, "center"],
    [1, "right"],
  ]) {
    context.textAlign = align;
    context.fillText(number(valueAt(scale, share)), left + share * width, top + BAR.height + 3);
  }
}

/** The legend above a heat map: colour bar, unit, and the signs that occur. */
export function fillLegend(node, { scale, unit, painted }) {
  clear(node);
  const canvas = h("canvas", {
    role: "img",
    "aria-label": `Colours from ${number(scale.low)} to ${number(scale.high)}${scale.log ? ", logarithmic" : ""}`,
  });
  drawColorBar(sharp(canvas, BAR.width + 2, BAR.height + 18), scale, { left: 1, top: 1 });
  const kinds = signs(painted).map((kind) =>
    h("span", { class: "heat-sign" }, chip(kind), WORDS[kind]),
  );
  node.append(canvas, h("span", { class: "heat-unit" }, legendText(unit, scale)), ...kinds);
}

/**
 * The whole heat map as a picture: labels, all rows, axis, colour bar.
 *
 * @param {object} map `rows`, `columns`, `flags`, `painted`, `scale`, `unit`, `xLabel`, `rowHeight`,
 *   `width` of the cells.
 */
export function heatPicture({
  rows,
  columns,
  flags,
  painted,
  scale,
  unit,
  xLabel,
  rowHeight,
  width,
}) {
  const canvas = h("canvas");
  const pen = canvas.getContext("2d");
  pen.font = font();
  const gutter = Math.min(
    Math.max(...rows.map((row) => pen.measureText(row.label).width), 40) + 12,
    380,
  );
  const shown = Math.min(rows.length, Math.floor(HIGHEST_PICTURE / rowHeight));
  const top = 40;
  const height = top + shown * rowHeight + AXIS_HEIGHT + 4;
  const context = sharp(canvas, gutter + width, height);
  canvas.dataset.ratio = String(window.devicePixelRatio);
  drawColorBar(context, scale, { left: gutter, top: 2 });
  let x = gutter + BAR.width + 12;
  context.textAlign = "left";
  const say = (text) => {
    context.fillStyle = theme.token("--muted");
    context.fillText(text, x, 2);
    x += context.measureText(text).width + 14;
  };
  say(legendText(unit, scale));
  for (const kind of signs(painted)) {
    drawChip(context, kind, x, 2);
    x += 24;
    say(WORDS[kind]);
  }
  const place = { left: gutter, top, width, rowHeight, first: 0, count: shown };
  drawCells(context, place, { painted, flags, columns: columns.length, rows });
  context.textAlign = "right";
  context.textBaseline = "middle";
  context.fillStyle = theme.token("--text");
  for (let row = 0; row < shown; row += 1) {
    context.fillText(rows[row].label, gutter - 8, top + (row + 0.5) * rowHeight, gutter - 10);
  }
  drawColumnAxis(context, {
    left: gutter,
    top: top + shown * rowHeight,
    width,
    columns,
    label: xLabel,
  });
  return canvas;
}

function legendText(unit, scale) {
  const measure = !unit || unit === "1" ? "" : unit;
  return [measure, scale.log ? "log scale" : ""].filter(Boolean).join(", ");
}

function signs({ faults, missing, below }) {
  return [faults && "fault", missing && "missing", below && "below"].filter(Boolean);
}

/**
 * Cells of a heat map on a canvas.
 *
 * @module heat_paint
 */

import { MAPS, level } from "./colors.js";
import { h } from "./dom.js";
import { drawGlyph } from "./glyphs.js";
import { theme } from "./theme.js";

/** Bits of a cell's flags: what was measured there besides finite values. */
export const FLAG = { nan: 1, inf: 2, minusInf: 4, none: 8 };
const FAULTS = FLAG.nan | FLAG.inf | FLAG.minusInf;
const BELOW = [140, 140, 140];
const FAULT = [160, 20, 60];

/**
 * Which value of a cell its colour shows.
 *
 * @param {"high"|"low"|"far"} show The highest, the lowest, or the one farther from zero.
 */
function shownValue(show, low, high) {
  if (show === "low") return low;
  if (show === "far") return Math.abs(low) > Math.abs(high) ? low : high;
  return high;
}

/** Whether a cell holds something that is not finite. */
export function isFault(flags) {
  return (flags & FAULTS) !== 0;
}

/**
 * All cells as a picture of one pixel each; cells without a value are transparent.
 *
 * @param {object} data `low`, `high` (rows × columns), `flags` or none, `rows` (blank ones have no
 *   cells), the number of `columns`, `show`.
 * @param {import("./colors.js").Scale} scale
 * @returns {{canvas: HTMLCanvasElement, below: boolean, faults: boolean, missing: boolean}}
 */
export function paintCells({ low, high, flags, rows, columns, show }, scale) {
  const canvas = h("canvas");
  canvas.width = Math.max(columns, 1);
  canvas.height = Math.max(rows.length, 1);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const { data } = image;
  const map = MAPS[scale.colors];
  const found = { canvas, below: false, faults: false, missing: false };
  rows.forEach((row, place) => {
    if (row.blank) return;
    for (let index = place * columns; index < (place + 1) * columns; index += 1) {
      const value = shownValue(show, low[index], high[index]);
      if (flags && isFault(flags[index])) {
        found.faults = true;
        put(data, 4 * index, FAULT, 0);
      } else if (Number.isFinite(value)) {
        const at = level(scale, value);
        if (at < 0) put(data, 4 * index, BELOW, 0);
        else put(data, 4 * index, map, 3 * at);
        found.below ||= at < 0;
      } else {
        found.missing = true;
      }
    }
  });
  context.putImageData(image, 0, 0);
  return found;
}

/**
 * Draw rows of painted cells, hatched where there is no value, crossed where one is not finite.
 *
 * @param {CanvasRenderingContext2D} context In CSS pixels.
 * @param {object} place `left`, `top`, `width`, `rowHeight`, `first` row and `count` of rows.
 * @param {object} cells `painted`, `flags`, the number of `columns`, and the `rows`.
 */
export function drawCells(
  context,
  { left, top, width, rowHeight, first, count },
  { painted, flags, columns, rows },
) {
  if (count <= 0 || columns === 0) return;
  const height = count * rowHeight;
  context.save();
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  context.fillStyle = hatch(context);
  context.fillRect(left, top, width, height);
  context.imageSmoothingEnabled = false;
  context.drawImage(painted.canvas, 0, first, columns, count, left, top, width, height);
  context.fillStyle = theme.token("--surface");
  if (rowHeight >= 10) {
    for (let row = 1; row < count; row += 1) {
      context.fillRect(left, top + row * rowHeight - 0.5, width, 1);
    }
  }
  for (let row = 0; row < count; row += 1) {
    if (rows[first + row].blank) context.fillRect(left, top + row * rowHeight, width, rowHeight);
  }
  if (flags && painted.faults) {
    drawFaults(context, { left, top, width, rowHeight, first, count }, flags, columns);
  }
  context.restore();
}

/** A cross on each stretch of cells that are not finite, and more along long ones. */
function drawFaults(context, { left, top, width, rowHeight, first, count }, flags, columns) {
  const cell = width / columns;
  const size = Math.max(Math.min(rowHeight / 2 - 2, 4), 2);
  const apart = Math.max(16 / cell, 1);
  for (let row = 0; row < count; row += 1) {
    const start = (first + row) * columns;
    let next = 0;
    for (let column = 0; column < columns; column += 1) {
      if (!isFault(flags[start + column])) {
        next = column + 1;
      } else if (column >= next) {
        const x = left + (column + 0.5) * cell;
        const y = top + (row + 0.5) * rowHeight;
        context.fillStyle = `rgb(${FAULT.join(" ")})`;
        context.fillRect(x - size - 1, y - size - 1, 2 * size + 2, 2 * size + 2);
        drawGlyph(context, "cross", x, y, size - 1, "#ffffff");
        next = column + apart;
      }
    }
  }
}

/** A small picture of one kind of cell, for the legend: "missing", "below" or "fault". */
export function chip(kind) {
  const canvas = h("canvas", { class: "heat-chip", "aria-hidden": "true" });
  const ratio = window.devicePixelRatio;
  canvas.width = 18 * ratio;
  canvas.height = 12 * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  drawChip(context, kind, 0, 0);
  return canvas;
}

/** The same, drawn into a picture. */
export function drawChip(context, kind, x, y) {
  context.save();
  context.translate(x, y);
  context.fillStyle =
    kind === "missing" ? hatch(context) : `rgb(${(kind === "fault" ? FAULT : BELOW).join(" ")})`;
  context.fillRect(0, 0, 18, 12);
  if (kind === "fault") drawGlyph(context, "cross", 9, 6, 3.5, "#ffffff");
  context.restore();
}

function hatch(context) {
  const tile = h("canvas");
  tile.width = tile.height = 6;
  const pen = tile.getContext("2d");
  pen.fillStyle = theme.token("--raised");
  pen.fillRect(0, 0, 6, 6);
  pen.strokeStyle = theme.token("--hatch");
  pen.lineWidth = 0.8;
  pen.beginPath();
  for (const shift of [-6, 0, 6]) {
    pen.moveTo(shift, 6);
    pen.lineTo(shift + 6, 0);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}

function put(data, at, colors, from) {
  data[at] = colors[from];
  data[at + 1] = colors[from + 1];
  data[at + 2] = colors[from + 2];
  data[at + 3] = 255;
}

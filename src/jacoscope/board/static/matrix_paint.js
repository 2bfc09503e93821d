/**
 * Square matrices on a canvas.
 *
 * @module matrix_paint
 */

import { MAPS, level } from "./colors.js";
import { h } from "./dom.js";
import { font } from "./heat_axes.js";
import { theme } from "./theme.js";

const ROOM_FOR_NAME = 12;

/**
 * All cells as a picture of one pixel each; cells without a value are transparent.
 *
 * @param {ArrayLike<number>} values N × N.
 * @param {number} n
 * @param {ArrayLike<number>} order Which row and column stands at each place.
 * @param {import("./colors.js").Scale} scale
 * @returns {{canvas: HTMLCanvasElement, missing: boolean}}
 */
export function paintMatrix(values, n, order, scale) {
  const canvas = h("canvas");
  canvas.width = canvas.height = Math.max(n, 1);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const map = MAPS[scale.colors];
  let missing = false;
  for (let row = 0; row < n; row += 1) {
    for (let column = 0; column < n; column += 1) {
      const value = values[order[row] * n + order[column]];
      const at = Number.isFinite(value) ? level(scale, value) : -1;
      if (at < 0) {
        missing = true;
        continue;
      }
      const pixel = 4 * (row * n + column);
      for (let channel = 0; channel < 3; channel += 1) {
        image.data[pixel + channel] = map[3 * at + channel];
      }
      image.data[pixel + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  return { canvas, missing };
}

/** Draw painted cells as a square. */
export function drawMatrix(context, painted, { left, top, side }) {
  context.imageSmoothingEnabled = false;
  context.fillStyle = theme.token("--raised");
  context.fillRect(left, top, side, side);
  context.drawImage(painted, left, top, side, side);
}

/**
 * Neighbours of one group, in an order.
 *
 * @param {string[]} groups What each row belongs to.
 * @param {ArrayLike<number>} order
 * @returns {{name: string, from: number, to: number}[]}
 */
export function stretches(groups, order) {
  const found = [];
  for (let place = 0; place < order.length; place += 1) {
    const name = groups[order[place]];
    const last = found[found.length - 1];
    if (last?.name === name) last.to = place + 1;
    else found.push({ name, from: place, to: place + 1 });
  }
  return found;
}

/** Lines between groups, and their names in the margins left of the square and below it. */
export function drawGroups(context, found, { left, top, side, n }) {
  context.font = font();
  context.textBaseline = "middle";
  context.textAlign = "center";
  for (const { name, from, to } of found) {
    const [start, end] = [(from / n) * side, (to / n) * side];
    context.fillStyle = theme.isDark ? "#ffffff" : "#000000";
    if (from > 0) {
      context.fillRect(left, top + start - 0.5, side, 1);
      context.fillRect(left + start - 0.5, top, 1, side);
    }
    if (end - start < ROOM_FOR_NAME) continue;
    context.fillStyle = theme.token("--text");
    context.fillText(name, left / 2, top + (start + end) / 2, left - 3);
    context.fillText(name, left + (start + end) / 2, top + side + left / 2, end - start - 2);
  }
}

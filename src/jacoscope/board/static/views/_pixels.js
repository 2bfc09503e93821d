/**
 * Numbers and images as pixels.
 *
 * @module views/_pixels
 */

import { MAPS, level } from "../colors.js";
import { h } from "../dom.js";

/**
 * A map of numbers, a pixel each; what is not finite is left transparent.
 *
 * @param {ArrayLike<number>} values Row by row.
 * @param {number} width
 * @param {import("../colors.js").Scale} scale
 */
export function mapPixels(values, width, scale) {
  const map = MAPS[scale.colors];
  return pixels(values.length / width, width, (place) => {
    if (!Number.isFinite(values[place])) return null;
    const at = 3 * Math.max(0, level(scale, values[place]));
    return [map[at], map[at + 1], map[at + 2]];
  });
}

/**
 * An image of values from 0 to 1: grey, grey with something else, colour, or colour with opacity.
 *
 * @param {ArrayLike<number>} values Row by row, channels last.
 */
export function imagePixels(values, height, width, channels) {
  const byte = (value) => Math.round(255 * Math.max(0, Math.min(1, value || 0)));
  return pixels(height, width, (place) => {
    const at = (channel) => byte(values[place * channels + channel]);
    if (channels < 3) return [at(0), at(0), at(0)];
    return [at(0), at(1), at(2), channels > 3 ? at(3) : 255];
  });
}

/** Whether dark text reads better than light on a colour of a map. */
export function isBright(colors, at) {
  const [red, green, blue] = MAPS[colors].subarray(3 * at, 3 * at + 3);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140;
}

function pixels(height, width, colorAt) {
  const canvas = h("canvas");
  canvas.width = Math.max(1, width);
  canvas.height = Math.max(1, height);
  const painter = canvas.getContext("2d");
  const image = painter.createImageData(canvas.width, canvas.height);
  for (let place = 0; place < width * height; place += 1) {
    const color = colorAt(place);
    if (color) image.data.set([color[0], color[1], color[2], color[3] ?? 255], 4 * place);
  }
  painter.putImageData(image, 0, 0);
  return canvas;
}

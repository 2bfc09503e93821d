/**
 * Drawing on a canvas: scales with ticks, texts that fit.
 *
 * @module views/_paint
 */

import { font } from "../heat_axes.js";

/** Tell a container's width now and whenever it changes; the function returned stops it. */
export function onWidth(container, listener) {
  let width = 0;
  const observer = new ResizeObserver(() => {
    const now = Math.floor(container.clientWidth);
    if (now === width || now === 0) return;
    width = now;
    listener(now);
  });
  observer.observe(container);
  return () => observer.disconnect();
}

/**
 * Write a text that keeps within a width.
 *
 * @param {CanvasRenderingContext2D} painter
 * @param {string} text
 * @param {number} x
 * @param {number} y
 * @param {{size?: number, weight?: number|string, align?: CanvasTextAlign, base?: CanvasTextBaseline,
 *   color: string, room?: number, keep?: "start"|"ends"}} style `keep`: what stays of a text that is too long.
 */
export function write(painter, text, x, y, style) {
  const {
    size = 12,
    weight = "normal",
    align = "left",
    base = "middle",
    color,
    room = Infinity,
    keep = "start",
  } = style;
  painter.font = `${weight} ${font(size)}`;
  painter.textAlign = align;
  painter.textBaseline = base;
  painter.fillStyle = color;
  painter.fillText(fitted(painter, text, room, keep), x, y);
}

/** The width of a text in pixels. */
export function widthOf(painter, text, size = 12, weight = "normal") {
  painter.font = `${weight} ${font(size)}`;
  return painter.measureText(text).width;
}

/**
 * A scale from numbers to pixels.
 *
 * @param {[number, number]} domain
 * @param {[number, number]} range
 * @param {boolean} log
 * @returns {{at: (x: number) => number, ticks: number[]}}
 */
export function scaleOf(domain, range, log, count = 6) {
  const through = log ? Math.log10 : (x) => x;
  const [low, high] = domain.map(through);
  const span = high - low || 1;
  return {
    at: (x) => range[0] + ((through(x) - low) / span) * (range[1] - range[0]),
    ticks: log ? logTicks(domain, count) : ticks(domain, count),
  };
}

/** The least and the greatest of the values that can be drawn, with some room on either side. */
export function extent(values, log, room = 0.04) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value) || (log && value <= 0)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return log ? [0.1, 1] : [0, 1];
  if (log) {
    const factor = Math.max((high / low) ** room, 1.15);
    return [low / factor, high * factor];
  }
  const pad = (high - low) * room || Math.abs(high) * 0.1 || 1;
  return [low - pad, high + pad];
}

function ticks([low, high], count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const factor = [1, 2, 5, 10].find((each) => each * power >= rough * 0.999) ?? 10;
  const pitch = factor * power;
  const result = [];
  for (let i = Math.ceil(low / pitch - 1e-9); i * pitch <= high + pitch * 1e-9; i++) {
    // Rounded, or 3 × 0.1 would read 0.30000000000000004.
    result.push(Number((i * pitch).toPrecision(12)));
  }
  return result;
}

function logTicks([low, high], count) {
  const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  const decades = last - first + 1;
  if (decades < 2) {
    const found = [1, 2, 5].flatMap((each) => [first - 1, first, last].map((power) => each * 10 ** power));
    const inside = [...new Set(found)].filter((tick) => tick >= low && tick <= high);
    return inside.length > 1 ? inside.sort((a, b) => a - b) : ticks([low, high], count);
  }
  const stride = Math.max(1, Math.ceil(decades / count));
  return Array.from({ length: Math.ceil(decades / stride) }, (_, i) => 10 ** (first + i * stride));
}

function fitted(painter, text, room, keep) {
  if (room === Infinity || painter.measureText(text).width <= room) return text;
  let low = 0;
  let high = text.length;
  const cut = (length) => {
    const tail = keep === "ends" ? Math.ceil(length / 2) : 0;
    return `${text.slice(0, length - tail)}…${tail ? text.slice(-tail) : ""}`;
  };
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (painter.measureText(cut(middle)).width <= room) low = middle;
    else high = middle - 1;
  }
  return cut(low);
}

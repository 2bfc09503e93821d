/**
 * Histograms of gradients over octaves of magnitude, negative to positive, with zero in the middle.
 *
 * @module histogram
 */

import { h } from "./dom.js";
import { frame } from "./export.js";
import { csv, number, percent } from "./format.js";
import { font, sharp } from "./heat_axes.js";
import { theme } from "./theme.js";

const HEIGHT = 220;
const FOOT = 38;
const LEFT = 46;
const TOP = 8;
const TICK_APART = 64;
const MOST_OVER = 1.25;

/**
 * Sum the bins of a histogram by octaves: all bars then are equally wide on a logarithmic axis.
 *
 * @param {Float64Array} edges From negative to positive, N + 1.
 * @param {Float64Array} counts N.
 * @returns {{bars: {sign: number, octave: number, count: number}[], zero: number, total: number, least: number, most: number}}
 *   `bars` from left to right without the one around zero; octave k holds 2ᵏ ≤ |g| < 2ᵏ⁺¹.
 */
export function octaves(edges, counts) {
  const sums = [new Map(), new Map()];
  let zero = 0;
  let total = 0;
  let [least, most] = [Infinity, -Infinity];
  for (let bin = 0; bin < counts.length; bin += 1) {
    const count = counts[bin];
    if (!(count > 0)) continue;
    total += count;
    const [from, to] = [edges[bin], edges[bin + 1]];
    if (from < 0 && to > 0) {
      zero += count;
      continue;
    }
    const octave = Math.floor(Math.log2(Math.min(Math.abs(from), Math.abs(to))) + 1e-9);
    const side = sums[from < 0 ? 0 : 1];
    side.set(octave, (side.get(octave) ?? 0) + count);
    least = Math.min(least, octave);
    most = Math.max(most, octave);
  }
  if (least > most) [least, most] = [-10, 0];
  const bars = [];
  for (let octave = most; octave >= least; octave -= 1) {
    bars.push({ sign: -1, octave, count: sums[0].get(octave) ?? 0 });
  }
  for (let octave = least; octave <= most; octave += 1) {
    bars.push({ sign: 1, octave, count: sums[1].get(octave) ?? 0 });
  }
  return { bars, zero, total, least, most };
}

/**
 * A histogram at the end of `container`.
 *
 * @param {HTMLElement} container
 * @param {{title: string, note?: string, name?: string, edges: Float64Array, counts: Float64Array, unit: string, color: string}} spec
 */
export function histogram(container, spec) {
  let current = spec;
  const canvas = h("canvas", { role: "img" });
  const holder = h("div", { class: "plot" }, canvas);
  const parts = frame(container, {
    title: spec.title,
    note: spec.note,
    name: spec.name ?? spec.title,
    png: () => picture(current, holder.clientWidth),
    csv: () => table(current),
  });
  parts.body.append(holder);
  const draw = () => {
    if (holder.clientWidth > 0) paint(canvas, current, holder.clientWidth);
    canvas.setAttribute("aria-label", words(current));
  };
  const observer = new ResizeObserver(draw);
  observer.observe(holder);
  draw();
  return {
    canvas,
    set(next) {
      current = next;
      parts.setTitle(next.title, next.note ?? "");
      draw();
    },
    destroy() {
      observer.disconnect();
      parts.node.remove();
    },
  };
}

function paint(canvas, { edges, counts, unit, color }, width) {
  const context = sharp(canvas, width, HEIGHT);
  const { bars, zero, total, least, most } = octaves(edges, counts);
  const count = bars.length + 3;
  const bar = (width - LEFT - 10) / count;
  const others = Math.max(...bars.map((one) => one.count)) / (total || 1);
  const zeroShare = zero / (total || 1);
  // A spike at zero is cut, lest all else vanish beside it; its share is written on it.
  const isCut = others > 0 && zeroShare > MOST_OVER * others;
  const tallest = (isCut ? others * MOST_OVER : Math.max(others, zeroShare)) || 1;
  const bottom = HEIGHT - FOOT;
  const up = (share) => (share / tallest) * (bottom - TOP);
  drawShares(context, { width, bottom, tallest });
  const half = bars.length / 2;
  const left = (place) => LEFT + (place + (place >= half ? 3 : 0)) * bar;
  context.fillStyle = color;
  bars.forEach((one, place) => {
    const height = up(one.count / (total || 1));
    context.fillRect(left(place), bottom - height, Math.max(bar - 1, 0.5), height);
  });
  drawZero(context, {
    x: LEFT + (half + 1) * bar,
    bar,
    bottom,
    top: bottom - up(Math.min(zeroShare, tallest)),
    share: zeroShare,
    isCut,
  });
  drawPlaces(context, { left: LEFT, bar, half, least, most, bottom, width, unit });
}

function drawZero(context, { x, bar, bottom, top, share, isCut }) {
  context.fillStyle = theme.token("--muted");
  context.fillRect(x, top, Math.max(bar - 1, 1), bottom - top);
  if (!isCut) return;
  context.fillStyle = theme.token("--surface");
  for (const y of [top + 10, top + 14]) context.fillRect(x - 2, y, bar + 4, 2);
  context.font = font();
  context.textAlign = "left";
  context.textBaseline = "top";
  context.fillStyle = theme.token("--text");
  context.fillText(`${percent(share)} at zero`, x + bar + 4, top);
}

function drawShares(context, { width, bottom, tallest }) {
  context.font = font();
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const part of [0, 0.5, 1]) {
    const y = Math.round(bottom - part * (bottom - TOP)) + 0.5;
    context.fillStyle = theme.token("--grid");
    context.fillRect(LEFT, y - 0.5, width - LEFT - 10, 1);
    context.fillStyle = theme.token("--muted");
    context.fillText(percent(part * tallest, tallest < 0.1 ? 1 : 0), LEFT - 5, y);
  }
}

/** Powers of ten on both sides of zero. */
function drawPlaces(context, { left, bar, half, least, most, bottom, width, unit }) {
  context.textAlign = "center";
  context.textBaseline = "top";
  const center = left + (half + 1.5) * bar;
  const tick = (x, text) => {
    context.fillStyle = theme.token("--muted");
    context.fillRect(Math.round(x), bottom, 1, 4);
    context.fillText(text, x, bottom + 6);
  };
  tick(center, "0");
  const apart = Math.max(1, Math.ceil(TICK_APART / (bar * Math.log2(10))));
  const top = Math.floor((most + 1) * Math.log10(2));
  const low = Math.ceil(least * Math.log10(2));
  for (let power = top; power >= low; power -= apart) {
    const octave = power * Math.log2(10);
    const away = (1.5 + octave - least) * bar;
    if (away < 30) continue;
    tick(center + away, number(10 ** power));
    tick(center - away, number(-(10 ** power)));
  }
  context.fillText(
    `Gradient of a weight${unit && unit !== "1" ? ` [${unit}]` : ""}, log scale on both sides`,
    left + (width - left) / 2,
    bottom + 22,
  );
}

function words({ title, edges, counts }) {
  const { zero, total, bars } = octaves(edges, counts);
  if (total === 0) return `${title}. Histogram without values.`;
  const negative = bars.filter((one) => one.sign < 0).reduce((sum, one) => sum + one.count, 0);
  const peak = bars.reduce((best, one) => (one.count > best.count ? one : best), bars[0]);
  const where = `most in ${peak.sign < 0 ? "−" : ""}${number(2 ** peak.octave)} to ${peak.sign < 0 ? "−" : ""}${number(2 ** (peak.octave + 1))}`;
  return `${title}. Histogram of ${number(total)} gradients: ${percent(negative / total)} negative, ${percent(zero / total)} at zero, ${where}.`;
}

function picture(spec, width) {
  const canvas = h("canvas");
  paint(canvas, spec, Math.max(width, 320));
  canvas.dataset.ratio = String(window.devicePixelRatio);
  return canvas;
}

function table({ edges, counts }) {
  return csv([
    ["from", "to", "count"],
    ...Array.from(counts, (count, bin) => [edges[bin], edges[bin + 1], count]),
  ]);
}

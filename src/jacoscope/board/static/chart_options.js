/**
 * How a line chart is set up in uPlot.
 *
 * @module chart_options
 */

import { isBand } from "./align.js";
import { number, step } from "./format.js";
import { SHAPES, drawGlyph } from "./glyphs.js";
import { faded, theme } from "./theme.js";

const FONT = "12px system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif";
const LEAST_BRUSH = 6;
const MARKS_PER_LINE = 8;
const LABEL_APART = 34;
const MOST_TICKS = 40;
const AROUND = 70; // what axes and padding take of a plot's height

/**
 * Options of a plot.
 *
 * @param {object} spec What the chart shows.
 * @param {() => object} current The same, with the data of later updates.
 * @param {number} width In CSS pixels.
 * @param {(index: number|null) => void} read Called as the cursor moves.
 */
export function plotOptions(spec, current, width, read) {
  const { series, bands } = seriesOptions(spec.series);
  return {
    width,
    height: spec.height ?? 240,
    padding: [12, 14, 0, 0],
    legend: { show: false },
    series: [{}, ...series],
    bands,
    scales: {
      x: { time: false, range: rangeOfSteps },
      y: spec.log ? { distr: 3, range: rangeOfDecades } : {},
    },
    axes: [xAxis(spec), yAxis(spec)],
    cursor: cursor(spec, current),
    select: { show: Boolean(spec.onZoom) },
    hooks: {
      setCursor: [(plot) => read(plot.cursor.idx)],
      setSelect: [(plot) => brushed(plot, current())],
      draw: [(plot) => drawMarks(plot, current())],
    },
  };
}

/** A band is two lines with a fill between them; a value is one line. */
function seriesOptions(all) {
  const series = [];
  const bands = [];
  for (const one of all) {
    const line = {
      label: one.label,
      stroke: one.color,
      width: one.width ?? 1.75,
      dash: one.dash ?? [],
      points: { size: 4, fill: one.color },
    };
    if (isBand(one)) {
      const isLine = one.x.length > 1;
      const points = isLine ? { show: false } : line.points;
      const edge = one.value
        ? { ...line, width: 0, stroke: "transparent", points }
        : { ...line, width: 1, points };
      bands.push({ series: [series.length + 1, series.length + 2], fill: faded(one.color, 0.22) });
      series.push(edge, edge);
      if (one.value) series.push(line);
    } else {
      series.push(line);
    }
  }
  return { series, bands };
}

function rangeOfSteps(plot, low, high) {
  if (low === null) return [0, 1];
  return low === high ? [low - 1, high + 1] : [low, high];
}

/** A little more than what the values span. */
function rangeOfDecades(plot, low, high) {
  if (low === null || !(high > 0)) return [0.1, 1];
  const margin = Math.max((high / low) ** 0.05, 1.1);
  return [low / margin, high * margin];
}

/** Powers of ten with as many between or left out as can be told apart. */
function splitsOfDecades(plot, axis, low, high) {
  const decades = Math.log10(high / low);
  const room = Math.max((plot.height - AROUND) / LABEL_APART, 2);
  const digits = decades * 4 < room ? [1, 2, 3, 5, 7] : decades * 2.5 < room ? [1, 2, 5] : [1];
  const stride = Math.max(1, Math.ceil(decades / room));
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    if (power % stride !== 0) continue;
    for (const digit of digits) {
      const value = Number(`${digit}e${power}`);
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found;
}

function evenSplits(plot, axis, low, high) {
  const room = Math.max((plot.height - AROUND) / LABEL_APART, 2);
  const least = (high - low) / room;
  const power = 10 ** Math.floor(Math.log10(least));
  const stride = [1, 2, 5, 10].map((digit) => digit * power).find((size) => size >= least) ?? least;
  const first = Math.ceil(low / stride);
  const count = Math.min(Math.floor(high / stride) - first + 1, MOST_TICKS);
  const found = [];
  for (let at = 0; at < count; at += 1) {
    found.push(Number(((first + at) * stride).toPrecision(12)));
  }
  return found;
}

function xAxis(spec) {
  return {
    label: spec.xLabel,
    labelSize: 20,
    size: 26,
    gap: 4,
    ...colors(),
    values: (plot, splits) => splits.map((value) => (spec.xFormat ?? step)(value)),
    incrs: spec.xFormat ? undefined : steps(),
  };
}

function yAxis(spec) {
  return {
    gap: 4,
    ...colors(),
    // uPlot's own ticks know no numbers beyond 1e16, which diverging runs reach; with ticks of one's
    // own it still wants a distance that it finds no fault with: from 5 it asks for no decimals.
    splits: spec.log ? splitsOfDecades : evenSplits,
    incrs: (plot, axis, low, high) => [Math.max(high - low, 5)],
    filter: (plot, splits) => splits,
    values: (plot, splits) => splits.map((value) => (value === null ? "" : number(value))),
    size: (plot, values) => {
      const longest = Math.max(...(values ?? [""]).map((text) => (text ?? "").length), 1);
      return 18 + 7 * longest;
    },
  };
}

function colors() {
  const grid = { stroke: theme.token("--grid"), width: 1 };
  const ink = theme.token("--muted");
  return { stroke: ink, font: FONT, labelFont: FONT, grid, ticks: { ...grid, size: 4 } };
}

/** Distances between ticks of whole steps. */
function steps() {
  return Array.from({ length: 12 }, (_, power) =>
    [1, 2, 5].map((digit) => digit * 10 ** power),
  ).flat();
}

function cursor(spec, current) {
  return {
    y: false,
    drag: { x: Boolean(spec.onZoom), y: false, setScale: false },
    points: { size: 7 },
    bind: { dblclick: () => () => current().onZoom?.([null, null]) },
  };
}

function brushed(plot, { onZoom }) {
  const { left, width } = plot.select;
  if (!onZoom || width < LEAST_BRUSH) return;
  const from = Math.ceil(plot.posToVal(left, "x"));
  const to = Math.floor(plot.posToVal(left + width, "x"));
  plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
  if (from < to) onZoom([from, to]);
}

function drawMarks(plot, spec) {
  const { ctx } = plot;
  ctx.save();
  ctx.beginPath();
  ctx.rect(plot.bbox.left - 6, plot.bbox.top - 14, plot.bbox.width + 12, plot.bbox.height + 20);
  ctx.clip();
  for (const marker of spec.markers ?? []) drawMarker(plot, marker);
  for (const one of spec.series) {
    if (one.shape) drawShapes(plot, one);
    if (one.flags) drawFaults(plot, one);
  }
  ctx.restore();
}

function drawMarker(plot, { x, label }) {
  const { ctx, bbox } = plot;
  const at = plot.valToPos(x, "x", true);
  if (at < bbox.left || at > bbox.left + bbox.width) return;
  const ratio = window.devicePixelRatio;
  ctx.strokeStyle = theme.token("--muted");
  ctx.lineWidth = ratio;
  ctx.setLineDash([4 * ratio, 3 * ratio]);
  ctx.beginPath();
  ctx.moveTo(at, bbox.top);
  ctx.lineTo(at, bbox.top + bbox.height);
  ctx.stroke();
  ctx.setLineDash([]);
  if (!label) return;
  ctx.font = `${11 * ratio}px system-ui, sans-serif`;
  ctx.fillStyle = theme.token("--muted");
  const isRight = at > bbox.left + bbox.width * 0.8;
  ctx.textAlign = isRight ? "right" : "left";
  ctx.textBaseline = "top";
  ctx.fillText(label, at + (isRight ? -4 : 4) * ratio, bbox.top + 2 * ratio);
}

/** A few markers along a line, so that rows can be told apart without colours. */
function drawShapes(plot, one) {
  const ratio = window.devicePixelRatio;
  const values = one.value ?? one.high ?? one.low;
  const offset = SHAPES.indexOf(one.shape) / SHAPES.length;
  const stride = Math.max(one.x.length / MARKS_PER_LINE, 1);
  for (let place = offset * stride; place < one.x.length; place += stride) {
    const index = Math.floor(place);
    const value = values[index];
    if (!Number.isFinite(value) || (plot.scales.y.distr === 3 && value <= 0)) continue;
    const x = plot.valToPos(one.x[index], "x", true);
    drawGlyph(plot.ctx, one.shape, x, plot.valToPos(value, "y", true), 4 * ratio, one.color);
  }
}

/** A cross at the top for every column in which a value was not finite. */
function drawFaults(plot, one) {
  const ratio = window.devicePixelRatio;
  for (let index = 0; index < one.x.length; index += 1) {
    if ((one.flags[index] & 7) === 0) continue;
    const x = plot.valToPos(one.x[index], "x", true);
    drawGlyph(plot.ctx, "cross", x, plot.bbox.top + 6 * ratio, 4 * ratio, theme.token("--alert"));
  }
}

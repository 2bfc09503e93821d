/**
 * Small charts without axes: a band between the extremes of each column, and a line through it.
 *
 * @module views/_spark
 */

import { extent } from "../align.js";
import { svg } from "../dom.js";
import { faded } from "../theme.js";

const WIDTH = 160;
const HEIGHT = 34;
const PAD = 3;
const DECADES = 100;

/** Whether numbers span so much that only a logarithmic axis shows them. */
export function spansDecades(low, high) {
  const range = extent([low, high]);
  return range !== null && range[0] > 0 && range[1] / range[0] > DECADES;
}

/**
 * A sparkline as an element.
 *
 * @param {{step: Float64Array, low: Float64Array, high: Float64Array}} numbers Without gaps.
 * @param {{color: string, dash: number[], label: string, log: boolean}} look `label` is the text alternative.
 */
export function sparkline(numbers, { color, dash, label, log }) {
  const node = svg("svg", {
    class: "spark",
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": label,
  });
  const { band, line } = outline(numbers, { width: WIDTH, height: HEIGHT, log });
  const text = (points) => points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
  if (line.length === 1) {
    node.append(svg("circle", { cx: line[0][0], cy: line[0][1], r: 2, fill: color }));
  } else if (line.length > 1) {
    node.append(
      svg("polygon", { points: text(band), fill: color, "fill-opacity": 0.3 }),
      svg("polyline", {
        points: text(line),
        fill: "none",
        stroke: color,
        "stroke-width": 1.6,
        "stroke-dasharray": dash.length > 0 ? dash.join(" ") : null,
        "vector-effect": "non-scaling-stroke",
      }),
    );
  }
  return node;
}

/** The same on a canvas. */
export function drawSpark(context, numbers, { left, top, width, height, color, log }) {
  const { band, line } = outline(numbers, { width, height, log });
  const trace = (points) => {
    context.beginPath();
    for (const [x, y] of points) context.lineTo(left + x, top + y);
  };
  context.fillStyle = faded(color, 0.3);
  trace(band);
  context.fill();
  context.strokeStyle = color;
  context.lineWidth = 1.5;
  trace(line);
  context.stroke();
}

function outline({ step, low, high }, { width, height, log }) {
  const range = extent([low, high]);
  if (range === null) return { band: [], line: [] };
  const across = scale(step[0], step[step.length - 1], PAD, width - PAD, false);
  const up = scale(range[0], range[1], height - PAD, PAD, log);
  const places = Array.from(step.keys());
  const top = places.map((at) => [across(step[at]), up(high[at])]);
  const bottom = places.map((at) => [across(step[at]), up(low[at])]);
  const line = places.map((at) => [top[at][0], (top[at][1] + bottom[at][1]) / 2]);
  return { band: [...top, ...bottom.toReversed()], line };
}

function scale(from, to, start, end, log) {
  const place = log ? Math.log : (value) => value;
  const [low, high] = [place(from), place(to)];
  if (low === high) return () => (start + end) / 2;
  return (value) => start + ((place(value) - low) / (high - low)) * (end - start);
}

/**
 * Dashes and markers, which tell lines apart where colours do not.
 *
 * @module glyphs
 */

import { svg } from "./dom.js";

/** Dash patterns of lines, in CSS pixels; the first is solid. */
export const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3], [4, 2]];

/** Marker shapes, by the order of rows. */
export const SHAPES = ["circle", "square", "triangle", "diamond", "plus", "star"];

const CORNERS = {
  square: [
    [-1, -1],
    [1, -1],
    [1, 1],
    [-1, 1],
  ],
  triangle: [
    [0, -1.2],
    [1.15, 0.9],
    [-1.15, 0.9],
  ],
  diamond: [
    [0, -1.35],
    [1.35, 0],
    [0, 1.35],
    [-1.35, 0],
  ],
};
const ARMS = {
  plus: [
    [-1.2, 0, 1.2, 0],
    [0, -1.2, 0, 1.2],
  ],
  cross: [
    [-1, -1, 1, 1],
    [-1, 1, 1, -1],
  ],
  star: [
    [-1.2, 0, 1.2, 0],
    [-0.7, -1, 0.7, 1],
    [-0.7, 1, 0.7, -1],
  ],
};

/**
 * Draw a marker on a canvas.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {string} shape One of `SHAPES`, or "cross".
 * @param {number} size Half its extent.
 */
export function drawGlyph(context, shape, x, y, size, color) {
  context.fillStyle = color;
  context.strokeStyle = color;
  context.beginPath();
  if (shape in ARMS) {
    for (const [x0, y0, x1, y1] of ARMS[shape]) {
      context.moveTo(x + x0 * size, y + y0 * size);
      context.lineTo(x + x1 * size, y + y1 * size);
    }
    context.lineWidth = Math.max(size / 2, 1);
    context.stroke();
    return;
  }
  if (shape in CORNERS) {
    for (const [dx, dy] of CORNERS[shape]) context.lineTo(x + dx * size, y + dy * size);
    context.closePath();
  } else {
    context.arc(x, y, size, 0, 2 * Math.PI);
  }
  context.fill();
}

/**
 * A short piece of a line as it is in a chart, for legends.
 *
 * @param {{color: string, dash?: number[], width?: number, shape?: string|null}} style
 */
export function swatch({ color, dash = [], width = 2, shape = null }) {
  return svg(
    "svg",
    { class: "swatch", width: 28, height: 12, "aria-hidden": "true", focusable: "false" },
    svg("line", {
      x1: 1,
      y1: 6,
      x2: 27,
      y2: 6,
      stroke: color,
      "stroke-width": width,
      "stroke-dasharray": dash.length > 0 ? dash.join(" ") : null,
    }),
    shape ? glyphElement(shape, color) : null,
  );
}

/** The same on a canvas, 28 pixels wide, its middle at `y`. */
export function drawSwatch(context, { color, dash = [], width = 2, shape = null }, x, y) {
  context.save();
  context.strokeStyle = color;
  context.lineWidth = width;
  context.setLineDash(dash);
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x + 28, y);
  context.stroke();
  context.setLineDash([]);
  if (shape) drawGlyph(context, shape, x + 14, y, 4, color);
  context.restore();
}

function glyphElement(shape, color) {
  const at = (dx, dy) => `${14 + dx * 4},${6 + dy * 4}`;
  if (shape in CORNERS) {
    return svg("polygon", {
      points: CORNERS[shape].map(([x, y]) => at(x, y)).join(" "),
      fill: color,
    });
  }
  if (shape in ARMS) {
    const path = ARMS[shape].map(([x0, y0, x1, y1]) => `M${at(x0, y0)} L${at(x1, y1)}`).join(" ");
    return svg("path", { d: path, stroke: color, "stroke-width": 2 });
  }
  return svg("circle", { cx: 14, cy: 6, r: 4, fill: color });
}

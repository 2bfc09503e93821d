/**
 * What is drawn over the cells of a heat map: the marked step, chosen rows, the cursor, the brush.
 *
 * @module heat_signs
 */

import { theme } from "./theme.js";

/**
 * @param {CanvasRenderingContext2D} context In CSS pixels.
 * @param {{width: number, height: number, top: number, rowHeight: number}} view `top`: how far it is
 *   scrolled.
 * @param {object} what `columns`, `columnsLast`, `marker`, `selectedRows`, `cell`, `brush`.
 */
export function drawSigns(
  context,
  { width, height, top, rowHeight },
  { columns, columnsLast, marker, selectedRows, cell, brush },
) {
  const wide = width / Math.max(columns.length, 1);
  if (marker !== null && marker !== undefined) {
    outline(
      context,
      (markedColumn(columns, columnsLast ?? columns, marker) + 0.5) * wide,
      -4,
      0,
      height + 8,
    );
  }
  for (const row of selectedRows ?? []) {
    outline(context, 1.5, row * rowHeight - top + 1, width - 3, rowHeight - 2);
  }
  if (cell) {
    const least = Math.max(wide, 6);
    outline(
      context,
      (cell.column + 0.5) * wide - least / 2,
      cell.row * rowHeight - top,
      least,
      rowHeight,
    );
  }
  if (brush) {
    const [first, last] = brush;
    context.fillStyle = theme.isDark ? "#ffffff55" : "#00000044";
    context.fillRect(first * wide, 0, (last - first + 1) * wide, height);
  }
}

/** The column that a step is in. */
export function markedColumn(columns, ends, step) {
  let column = 0;
  while (column < columns.length - 1 && ends[column] < step) column += 1;
  return column;
}

/** A line with a rim, to be seen on any colour. */
function outline(context, x, y, width, height) {
  const [rim, line] = theme.isDark ? ["#000000", "#ffffff"] : ["#ffffff", "#000000"];
  context.lineWidth = 3.5;
  context.strokeStyle = rim;
  context.strokeRect(x, y, width, height);
  context.lineWidth = 1.5;
  context.strokeStyle = line;
  context.strokeRect(x, y, width, height);
}

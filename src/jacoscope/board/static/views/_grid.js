/**
 * A small table of numbers as a figure: shaded cells, or bars about a middle, each with its number.
 *
 * @module views/_grid
 */

import { css, level, scaleOf } from "../colors.js";
import { csv, number } from "../format.js";
import { widthOf, write } from "./_paint.js";
import { isBright } from "./_pixels.js";

const ROW = 22;
const WIDEST = 120;
const NAMES = 240;

/**
 * The figure's specification, for `picture`.
 *
 * @param {object} given
 * @param {string[]} given.rows Names, from top to bottom.
 * @param {string[]} given.columns
 * @param {ArrayLike<number>} given.values Rows × columns.
 * @param {"shade"|"bar"} given.style
 * @param {string} given.rowNoun What a row is, such as "feature".
 * @param {string} given.columnNoun
 * @param {boolean[]} [given.marked] Columns that are set off, with a frame and in bold.
 * @param {object} given.theme
 */
export function gridFigure({ rows, columns, values, style, rowNoun, columnNoun, marked = [], theme }) {
  const c = columns.length;
  const finite = Array.from(values).filter(Number.isFinite);
  const range = finite.length ? [Math.min(...finite), Math.max(...finite)] : null;
  const colors = range && range[0] < 0 ? "diverging" : "sequential";
  const scale =
    colors === "sequential" ? { ...scaleOf(range, { colors }), low: 0 } : scaleOf(range, { colors });
  const head = 20;

  function paint(painter, room) {
    const names = Math.min(NAMES, room * 0.4, 12 + Math.max(...rows.map((row) => widthOf(painter, row))));
    const cell = Math.max(14, Math.min(WIDEST, (room - names) / c));
    const text = theme.token("--text");
    const parts = [];
    columns.forEach((name, column) =>
      write(painter, name, names + (column + 0.5) * cell, head - 9, {
        align: "center",
        color: text,
        weight: marked[column] ? 700 : 600,
        room: cell - 3,
      }),
    );
    rows.forEach((name, row) => {
      const y = head + row * ROW;
      write(painter, name, names - 8, y + ROW / 2, {
        align: "right",
        color: text,
        room: names - 10,
        keep: "ends",
      });
      columns.forEach((_, column) => {
        const value = values[row * c + column];
        const box = { x: names + column * cell, y, width: cell - 2, height: ROW - 2 };
        if (style === "bar") drawBar(painter, value, box, { scale, theme });
        else drawShade(painter, value, box);
        parts.push({ ...box, text: `${rowNoun} ${name}, ${columnNoun} ${columns[column]}: ${number(value)}` });
      });
    });
    return parts;
  }

  function drawShade(painter, value, { x, y, width, height }) {
    if (!Number.isFinite(value)) {
      painter.fillStyle = theme.token("--raised");
      painter.fillRect(x, y, width, height);
      write(painter, number(value), x + width / 2, y + height / 2, {
        align: "center",
        color: theme.token("--text"),
        room: width,
      });
      return;
    }
    const at = Math.max(0, level(scale, value));
    painter.fillStyle = css(colors, at);
    painter.fillRect(x, y, width, height);
    if (width < 34) return;
    write(painter, number(value, 2), x + width / 2, y + height / 2, {
      align: "center",
      color: isBright(colors, at) ? "#000" : "#fff",
      room: width - 4,
    });
  }

  return {
    heightOf: () => head + rows.length * ROW + 4,
    paint,
    summary: `${rows.length} ${rowNoun}s by ${c} ${columnNoun}s${range ? `, values from ${number(range[0])} to ${number(range[1])}` : ""}.`,
    csv: () =>
      csv([
        [rowNoun, ...columns],
        ...rows.map((row, place) => [row, ...columns.map((_, column) => values[place * c + column])]),
      ]),
  };
}

/** A bar to either side of the cell's middle, its number on the free side. */
function drawBar(painter, value, { x, y, width, height }, { scale, theme }) {
  const middle = x + width / 2;
  const share = Number.isFinite(value) ? value / (Math.max(Math.abs(scale.low), Math.abs(scale.high)) || 1) : 0;
  const isBelow = share < 0;
  painter.fillStyle = theme.token("--raised");
  painter.fillRect(x, y, width, height);
  painter.fillStyle = theme.token(isBelow ? "--series-1" : "--series-2");
  painter.fillRect(
    isBelow ? middle + (share * width) / 2 : middle,
    y + 3,
    Math.max(Math.abs(share * width) / 2, 1),
    height - 6,
  );
  painter.fillStyle = theme.token("--muted");
  painter.fillRect(middle, y, 1, height);
  const ink = { color: theme.token("--text"), align: isBelow ? "left" : "right", room: width / 2 - 4 };
  write(painter, number(value, 2), isBelow ? middle + 5 : middle - 4, y + height / 2, ink);
}

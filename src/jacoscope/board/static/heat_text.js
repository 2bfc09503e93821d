/**
 * What a heat map says in words and as numbers.
 *
 * @module heat_text
 */

import { csv, number, step, unit as unitText } from "./format.js";
import { FLAG, isFault } from "./heat_paint.js";

/** The text alternative of a heat map. */
export function heatSummary({ title, rows, columns, unit }, scale, painted) {
  if (rows.length === 0 || columns.length === 0) return `${title}. Nothing to show.`;
  const span = `steps ${step(columns[0])} to ${step(columns[columns.length - 1])}`;
  const values = `values from ${number(scale.low)} to ${number(scale.high)}${unitText(unit)}`;
  const faults = painted.faults ? " Some are not finite." : "";
  return `${title}. Heat map of ${rows.filter((row) => !row.blank).length} rows over ${span}, ${values}.${faults} Arrow keys move over the cells, Enter selects the row.`;
}

/** What a cell of a heat map says. */
export function cellText({ rows, columns, columnsLast, low, high, flags, unit }, { row, column }) {
  const at = row * columns.length + column;
  const last = (columnsLast ?? columns)[column];
  const span =
    last === columns[column]
      ? `step ${step(last)}`
      : `steps ${step(columns[column])} – ${step(last)}`;
  return `${rows[row].title ?? rows[row].label} · ${span} · ${valueText(low[at], high[at], flags?.[at] ?? 0, unit)}`;
}

/** The values of a cell in words. */
export function valueText(low, high, flags, unit) {
  const parts = [];
  if (Number.isFinite(low)) {
    parts.push((low === high ? number(low) : `${number(low)} to ${number(high)}`) + unitText(unit));
  }
  if (flags & FLAG.nan) parts.push("nan measured");
  if (flags & FLAG.inf) parts.push("∞ measured");
  if (flags & FLAG.minusInf) parts.push("−∞ measured");
  return parts.length > 0 ? parts.join(", ") : "no value";
}

/** The numbers of a heat map, a line for each cell. */
export function heatCsv({ rows, columns, columnsLast, low, high, flags }) {
  const lines = [["row", "step", "step_last", "low", "high", "not_finite"]];
  rows.forEach((row, place) => {
    if (row.blank) return;
    for (let column = 0; column < columns.length; column += 1) {
      const at = place * columns.length + column;
      const bits = flags?.[at] ?? 0;
      const faults = isFault(bits)
        ? ["nan", "inf", "-inf"].filter((_, bit) => bits & (1 << bit)).join(" ")
        : "";
      const last = (columnsLast ?? columns)[column];
      lines.push([row.title ?? row.label, columns[column], last, low[at], high[at], faults]);
    }
  });
  return csv(lines);
}

/**
 * Numbers as people read them.
 *
 * @module format
 */

const MISSING = "—";

/**
 * A number in up to `digits` significant digits; powers of ten as `1.2e-7`.
 *
 * @param {number|string|null|undefined} x `null`, `undefined` and nan read as a dash; the strings
 *   "inf" and "-inf", which JSON replies hold, as infinities.
 * @param {number} [digits]
 * @returns {string}
 */
export function number(x, digits = 3) {
  const value = finite(x);
  if (value === null) return MISSING;
  if (value === Infinity) return "∞";
  if (value === -Infinity) return "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return sign(value.toLocaleString("en"));
  if (size >= 1e6 || size < 1e-3) return sign(trimmed(value.toExponential(digits - 1)));
  const rounded = Number(value.toPrecision(digits));
  return sign(size >= 1000 ? rounded.toLocaleString("en") : String(rounded));
}

/** A training step, with thin separators of thousands. */
export function step(x) {
  const value = finite(x);
  if (value === null || !Number.isFinite(value)) return MISSING;
  return Math.round(value).toLocaleString("en");
}

/** A share as a percentage. */
export function percent(x, digits = 1) {
  const value = finite(x);
  if (value === null || !Number.isFinite(value)) return MISSING;
  return `${sign((value * 100).toFixed(digits))} %`;
}

/** What follows a number of this unit: nothing for plain ratios and counts. */
export function unit(u) {
  return !u || u === "1" || u === "count" ? "" : ` ${u}`;
}

/** The name of an axis with its unit in brackets. */
export function axis(title, u) {
  return !u || u === "1" ? title : `${title} [${u}]`;
}

/** "1 step", "2 steps". */
export function count(n, one, many = `${one}s`) {
  return `${number(n)} ${n === 1 ? one : many}`;
}

/** The time of day of a moment in milliseconds. */
export function clock(milliseconds) {
  return new Date(milliseconds).toLocaleTimeString([], {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    hour12: false,
  });
}

/** A value of a CSV file, quoted where it must be; text that a spreadsheet would run is defused. */
function csvCell(value) {
  if (typeof value === "number") {
    if (Number.isFinite(value)) return String(value);
    return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  }
  if (value === null || value === undefined) return "";
  let text = String(value);
  if (/^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text))) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Rows of values as a CSV text. */
export function csv(rows) {
  return rows.map((row) => Array.from(row, csvCell).join(",")).join("\r\n") + "\r\n";
}

function finite(x) {
  if (x === null || x === undefined || x === "") return null;
  if (x === "inf") return Infinity;
  if (x === "-inf") return -Infinity;
  const value = Number(x);
  return Number.isNaN(value) ? null : value;
}

function sign(text) {
  return text.replace(/^-/, "−");
}

function trimmed(text) {
  return text.replace(/\.?0+e/, "e").replace("e+", "e");
}

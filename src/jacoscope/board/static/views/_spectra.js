/**
 * Spectra as line charts: at one step over their numbers, and over steps.
 *
 * @module views/_spectra
 */

import { number, step as stepText } from "../format.js";

/** Smaller ones, against the largest, are rounding and would squeeze the rest. */
const DEEPEST = 1e-9;
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];
const SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉";

/**
 * A chart of one step's values, largest first, with the first step's beside them.
 *
 * @param {object} options
 * @param {{step: number, values: ArrayLike<number>}} options.now
 * @param {{step: number, values: ArrayLike<number>}|null} options.first
 * @param {{token: (name: string) => string}} options.theme
 * @returns {object} What `lineChart` takes, but for its title, note, name and `yLabel`.
 */
export function spectrumLines({ now, first, theme }) {
  const line = ({ step, values }, color, dash, shape) => ({
    label: `step ${stepText(step)}`,
    color: theme.token(color),
    dash,
    shape,
    x: Float64Array.from(drawable(values), (_, i) => i + 1),
    value: drawable(values),
  });
  const series = [line(now, "--series-1", [], "circle")];
  if (first && first.step !== now.step) series.push(line(first, "--series-8", [4, 3], "diamond"));
  return { xLabel: "number, largest first", xFormat: (x) => number(x), log: true, height: 210, series };
}

/** What the logarithmic axis leaves out, in words; an empty text if nothing. */
export function leftOut(values) {
  const small =
    Array.from(values).filter(Number.isFinite).length - drawable(values).filter(Number.isFinite).length;
  const broken = Array.from(values).filter((value) => !Number.isFinite(value)).length;
  const said = [];
  if (small) said.push(`${small} within rounding of zero are left out.`);
  if (broken) said.push(`${broken} are not finite.`);
  return said.join(" ");
}

/**
 * The largest values over steps, a line each.
 *
 * @param {object} options
 * @param {ArrayLike<number>} options.steps
 * @param {(at: number, rank: number) => number} options.valueAt By place of the step and of the value.
 * @param {number} options.count How many lines.
 * @param {string} options.symbol Such as "λ".
 */
export function largestOverSteps({ steps, valueAt, count, symbol, theme }) {
  return Array.from({ length: count }, (_, rank) => ({
    label: ranked(symbol, rank),
    color: theme.token(`--series-${rank + 1}`),
    dash: DASHES[rank % DASHES.length],
    x: Float64Array.from(steps),
    value: Float64Array.from(steps, (_, at) => valueAt(at, rank)),
  }));
}

/** A symbol with its number, counted from one, below it. */
export function ranked(symbol, rank) {
  return symbol + String(rank + 1).replace(/\d/g, (digit) => SUBSCRIPTS[digit]);
}

/** Values for a logarithmic axis, which end with the last one that has a place on it. */
function drawable(values) {
  let most = 0;
  for (const value of values) if (Number.isFinite(value) && value > most) most = value;
  const shown = Float64Array.from(values, (value) =>
    Number.isFinite(value) && value > most * DEEPEST ? value : NaN,
  );
  return shown.subarray(0, shown.findLastIndex(Number.isFinite) + 1);
}

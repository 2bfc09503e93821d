/**
 * Series with steps of their own on one shared axis, as uPlot wants them.
 *
 * @module align
 */

/**
 * @typedef {object} Series
 * @property {string} label
 * @property {ArrayLike<number>} x Ascending.
 * @property {ArrayLike<number>} [low] Lowest value of each column.
 * @property {ArrayLike<number>} [high] Highest value of each column.
 * @property {ArrayLike<number>} [value] A line of its own between them, or all there is.
 * @property {ArrayLike<number>} [flags] Bits 1, 2, 4: a nan, inf, −inf was measured there.
 */

/**
 * Put series on the union of their x values.
 *
 * @param {Series[]} series
 * @param {boolean} log Whether values at or below zero have no place on the axis.
 * @returns {{x: Float64Array, lines: object[], hidden: number}} For each series its `low`, `high`
 *   and `value` as arrays with `undefined` where it has no column and `null` where the column has no
 *   finite value; `hidden` counts what a logarithmic axis cannot show. There, bands that begin at or
 *   below zero begin at the lowest value of all that the axis can show.
 */
export function align(series, log) {
  const x = Float64Array.from(new Set(series.flatMap((one) => Array.from(one.x)))).sort();
  const place = new Map(Array.from(x, (value, index) => [value, index]));
  const floor = log ? lowestPositive(series) : null;
  let hidden = 0;
  const spread = (one, values, above = null) => {
    if (!values) return null;
    const out = new Array(x.length);
    for (let index = 0; index < one.x.length; index += 1) {
      let shown = Number.isFinite(values[index]) ? values[index] : null;
      if (log && shown !== null && shown <= 0) {
        shown = above && above[index] > 0 ? floor : null;
        hidden += 1;
      }
      out[place.get(one.x[index])] = shown;
    }
    return out;
  };
  const lines = series.map((one) => ({
    low: spread(one, one.low, one.high),
    high: spread(one, one.high),
    value: spread(one, one.value),
  }));
  return { x, lines, hidden };
}

function lowestPositive(series) {
  const arrays = series.flatMap((one) => [one.low, one.high, one.value].filter(Boolean));
  return extent(arrays, (value) => value > 0)?.[0] ?? null;
}

/** Whether a series is a band: somewhere its lowest and highest values differ. */
export function isBand(one) {
  if (!one.low || !one.high) return false;
  for (let index = 0; index < one.x.length; index += 1) {
    if (one.low[index] !== one.high[index] && Number.isFinite(one.low[index])) return true;
  }
  return false;
}

/** Index of the last column that begins at or before `value`, or the first one. */
export function columnAt(x, value) {
  let from = 0;
  let to = x.length;
  while (from < to) {
    const middle = (from + to) >> 1;
    if (x[middle] <= value) from = middle + 1;
    else to = middle;
  }
  return Math.max(from - 1, 0);
}

/** Lowest and highest finite value of some arrays; `null` where there is none. */
export function extent(arrays, accept = () => true) {
  let low = Infinity;
  let high = -Infinity;
  for (const array of arrays) {
    for (let index = 0; index < array.length; index += 1) {
      const value = array[index];
      if (!Number.isFinite(value) || !accept(value)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  return low <= high ? [low, high] : null;
}

/**
 * Two runs, layer by layer, as numbers.
 *
 * @module views/_compare_data
 */

const COLUMNS = 2000;
const FACTOR = 2;

/**
 * One number per row of a run: its last value in the range, or the median over it.
 *
 * @param {object} api
 * @param {object} run
 * @param {{quantity: string, from: number|null, to: number|null, statistic: "last"|"median"}} what
 * @returns {Promise<{rows: Map<string, object>, meta: object}|null>} By the row's name: `value` (nan
 *   without one), `fault` (what was measured that is not finite), `step`; null where the run has not
 *   recorded the quantity.
 */
export async function rowNumbers(api, run, { quantity, from, to, statistic }) {
  if (!run.quantities.some((one) => one.name === quantity && !one.histogram)) return null;
  const query = { run: run.run, group: run.group, quantity, from, to };
  const series = await api.getArrays("data/series", { ...query, points: COLUMNS });
  const rows = new Map(
    series.meta.rows.map((row, place) => [row.name, numbersOf(series, place, statistic)]),
  );
  if (statistic === "last" && series.meta.binned) {
    // A column spans several steps by now: the last step is asked for by itself.
    const ends = series.arrays.step_last.data;
    const last = await api.getArrays("data/series", {
      ...query,
      from: ends[ends.length - 1],
      points: COLUMNS,
    });
    last.meta.rows.forEach((row, place) => {
      const exact = numbersOf(last, place, statistic);
      if (Number.isFinite(exact.value) || exact.fault) rows.set(row.name, exact);
    });
  }
  return { rows, meta: series.meta };
}

/**
 * The rows of both runs, side by side.
 *
 * @param {Map<string, object>} a
 * @param {Map<string, object>} b
 * @param {boolean} isRatio Whether values are compared by their ratio; by their difference otherwise.
 * @returns {object[]} In the order of A, then what only B has: `name`, `a`, `b` (null where a run does
 *   not have the row), `change` (log₂(B/A) or B − A, nan without), `isMarked`.
 */
export function joined(a, b, isRatio) {
  const names = [...new Set([...a.keys(), ...b.keys()])];
  return names.map((name) => {
    const [one, two] = [a.get(name) ?? null, b.get(name) ?? null];
    const [x, y] = [one?.value ?? NaN, two?.value ?? NaN];
    return { name, a: one, b: two, change: isRatio ? ratio(x, y) : y - x, isMarked: isFar(x, y) };
  });
}

/** Rows by the size of their change, the largest first; those without one at the end. */
export function byChange(rows) {
  const size = (row) => (Number.isNaN(row.change) ? -1 : Math.abs(row.change));
  return [...rows].sort((first, second) => size(second) - size(first));
}

/** Whether values are fit for ratios: none is below zero. */
export function isRatioScale(...sides) {
  return sides.every((rows) => [...rows.values()].every(({ value }) => !(value < 0)));
}

function numbersOf({ arrays }, place, statistic) {
  const count = arrays.step.data.length;
  const start = place * count;
  const [low, high, flags] = [arrays.low.data, arrays.high.data, arrays.flags.data];
  const found = [];
  let bits = 0;
  for (let column = count - 1; column >= 0; column -= 1) {
    const at = start + column;
    if (statistic === "median") bits |= flags[at] & 7;
    else if (flags[at] & 7)
      return { value: NaN, fault: faultOf(flags[at]), step: arrays.step_last.data[column] };
    if (!Number.isFinite(low[at])) continue;
    const value = (low[at] + high[at]) / 2;
    if (statistic === "last") return { value, fault: "", step: arrays.step_last.data[column] };
    found.push(value);
  }
  if (found.length === 0) return { value: NaN, fault: faultOf(bits), step: null };
  found.sort((a, b) => a - b);
  const middle = found.length >> 1;
  const value = found.length % 2 === 1 ? found[middle] : (found[middle - 1] + found[middle]) / 2;
  return { value, fault: faultOf(bits), step: null };
}

function faultOf(bits) {
  return [
    [1, "nan"],
    [2, "∞"],
    [4, "−∞"],
  ]
    .filter(([bit]) => bits & bit)
    .map(([, word]) => word)
    .join(", ");
}

function ratio(a, b) {
  if (a === b && Number.isFinite(a)) return 0;
  return Math.log2(b / a);
}

/** More than a factor of two apart, or of other signs. */
function isFar(a, b) {
  if (!Number.isFinite(a) || !Number.isFinite(b)) return false;
  return Math.abs(b - a) > Math.max(Math.abs(a), Math.abs(b)) * (1 - 1 / FACTOR);
}

/**
 * Curves of chosen rows for all selected runs.
 *
 * @module views/_layers_curves
 */

import { axis } from "../format.js";
import { SHAPES } from "../glyphs.js";
import { FLAG } from "../heat_paint.js";

const POINTS = 1000;
const COLORS = 8;

/**
 * Fetch rows by their names.
 *
 * @param {object} api
 * @param {object} run
 * @param {{quantity: string, from: number|null, to: number|null, names: string[]}} what
 * @returns {Promise<{run: object, meta: object, arrays: object}|null>} Null where the run has none of it.
 */
export async function fetchRows(api, run, { quantity, from, to, names }) {
  if (!run.quantities.some((one) => one.name === quantity && !one.histogram)) return null;
  const query = { run: run.run, group: run.group, quantity };
  // Two columns are enough to learn which rows there are.
  const { meta: known } = await api.getArrays("data/series", { ...query, points: 2 });
  const rows = names
    .map((name) => known.rows.find((row) => row.name === name)?.index)
    .filter((row) => row !== undefined);
  if (rows.length === 0) return null;
  const reply = await api.getArrays("data/series", {
    ...query,
    from,
    to,
    points: POINTS,
    rows: rows.join(","),
  });
  return { run, ...reply };
}

/**
 * A row's columns in which anything was measured: rows have schedules of their own, and a line joins
 * what it has.
 *
 * @param {object} arrays Of `/data/series`.
 * @param {number} place The row's place in them.
 * @returns {{x: Float64Array, low: Float32Array, high: Float32Array, flags: Uint8Array}}
 */
export function measured(arrays, place) {
  const steps = arrays.step.data;
  const start = place * steps.length;
  const kept = Array.from(steps.keys()).filter(
    (at) => (arrays.flags.data[start + at] & FLAG.none) === 0,
  );
  const pick = (kind, { data }, from) => kind.from(kept, (at) => data[from + at]);
  return {
    x: pick(Float64Array, arrays.step, 0),
    low: pick(Float32Array, arrays.low, start),
    high: pick(Float32Array, arrays.high, start),
    flags: pick(Uint8Array, arrays.flags, start),
  };
}

/**
 * The chart of fetched rows.
 *
 * @param {object[]} fetched Of `fetchRows`, without nulls.
 * @param {object} look `names` (all chosen rows), `log`, `step`, `token`, `onZoom`.
 */
export function curvesSpec(fetched, { names, quantity, log, step, token, onZoom, note }) {
  const several = fetched.length > 1;
  const series = fetched.flatMap(({ run, meta, arrays }) =>
    meta.rows.map((row, place) => {
      const at = names.indexOf(row.name);
      return {
        label: several ? `${run.label}: ${row.name}` : row.name,
        // With several runs the colour tells the run; with one it is free to tell the row.
        color: several ? run.color : token(`--series-${(at % COLORS) + 1}`),
        dash: several ? run.dash : [],
        shape: names.length > 1 ? SHAPES[at % SHAPES.length] : null,
        ...measured(arrays, place),
      };
    }),
  );
  return {
    title: `${quantity.title || quantity.name}: curves`,
    note,
    name: `${quantity.name}_curves`,
    xLabel: "Step",
    yLabel: axis(quantity.title || quantity.name, quantity.unit),
    log,
    series,
    height: 270,
    markers: step === null ? [] : [{ x: step, label: "chosen step" }],
    onZoom,
  };
}

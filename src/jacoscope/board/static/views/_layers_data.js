/**
 * What the layers view shows: the series of a quantity, and what the link says about it.
 *
 * @module views/_layers_data
 */

import { isWhole } from "../tree.js";

/** The most rows whose curves are shown at once. */
export const MOST_ROWS = 8;

const POINTS = 600;

/**
 * Fetch a quantity of a run, in as many columns as can be seen.
 *
 * @param {object} context
 * @param {object} run
 * @param {object} quantity As in the run's list.
 * @returns {Promise<object>} `run`, `quantity`, `meta`, `columns` and `columnsLast` (first and last
 *   step of each column), `low`, `high`, `flags`, and what `choices` adds.
 */
export async function layersData(context, run, quantity) {
  const [from, to] = context.range();
  const query = { run: run.run, group: run.group, quantity: quantity.name, from, to };
  const { meta, arrays } = await context.api.getArrays("data/series", { ...query, points: POINTS });
  return {
    run,
    quantity,
    meta,
    columns: arrays.step.data,
    columnsLast: arrays.step_last.data,
    low: arrays.low.data,
    high: arrays.high.data,
    flags: arrays.flags.data,
    ...choices(context.state, quantity, meta.rows),
  };
}

/**
 * What the link chooses: `log`, `step` (null: the last one), `names` of the rows whose curves are
 * shown, and `isDefault` where it names none.
 */
function choices(state, quantity, rows) {
  const scale = state.get("scale");
  const wanted = state.getJson("rows", []);
  const asked = (Array.isArray(wanted) ? wanted : []).filter((name) => typeof name === "string");
  const isDefault = asked.length === 0;
  return {
    log: scale === "log" || (scale !== "linear" && quantity.log),
    step: state.getStep("step"),
    names: isDefault ? endsOf(rows) : asked.slice(0, MOST_ROWS),
    isDefault,
  };
}

/** The ends of the model, which say whether gradients vanish or explode on their way through it. */
export function endsOf(rows) {
  const names = rows.filter((row) => !isWhole(row.kind)).map((row) => row.name);
  return names.length > 0 ? [...new Set([names[0], names[names.length - 1]])] : [];
}

/**
 * What a cell of the layers' heat map says.
 *
 * @module views/_layers_reader
 */

import { step } from "../format.js";
import { FLAG } from "../heat_paint.js";
import { valueText } from "../heat_text.js";

const PATIENCE = 180;

/**
 * A reader of cells. Why a value is missing is asked of the server, once the cursor rests.
 *
 * @param {object} context
 */
export function cellReader({ api }) {
  let timer = 0;
  return {
    /**
     * @param {{row: number, column: number}} cell
     * @param {object[]} items The rows that are shown.
     * @param {object} data The series.
     * @param {(text: string) => void} say Says more when it is known.
     * @returns {string} What is known now.
     */
    read({ row, column }, items, data, say) {
      clearTimeout(timer);
      const item = items[row];
      if (item.isOpen) {
        return `${item.node.path}: ${item.node.rows.length} rows below. Click to close it.`;
      }
      const [from, to] = [data.columns[column], data.columnsLast[column]];
      const span = from === to ? `step ${step(from)}` : `steps ${step(from)} – ${step(to)}`;
      const { low, high, flags } = extremes(item.node.rows, column, data);
      const text = `${item.node.path} · ${span} · ${valueText(low, high, flags, data.quantity.unit)}`;
      if (flags & FLAG.none && !item.isGroup) {
        timer = setTimeout(async () => {
          const reason = await why(api, data, item.node, from);
          if (reason) say(`${text}: ${reason}`);
        }, PATIENCE);
      }
      return text;
    },
  };
}

function extremes(rows, column, { low, high, flags, columns }) {
  const found = { low: NaN, high: NaN, flags: FLAG.none };
  for (const row of rows) {
    const at = row * columns.length + column;
    if (Number.isFinite(low[at]) && !(found.low <= low[at])) found.low = low[at];
    if (Number.isFinite(high[at]) && !(found.high >= high[at])) found.high = high[at];
    const none = found.flags & flags[at] & FLAG.none;
    found.flags = ((found.flags | flags[at]) & ~FLAG.none) | none;
  }
  return found;
}

async function why(api, { run, quantity }, node, at) {
  try {
    const query = {
      run: run.run,
      group: run.group,
      quantity: quantity.name,
      step: at,
      row: node.row,
    };
    const { reasons } = await api.getJson("data/missing", query);
    return reasons[0]?.reason ?? null;
  } catch {
    // The readout stands without the reason.
    return null;
  }
}

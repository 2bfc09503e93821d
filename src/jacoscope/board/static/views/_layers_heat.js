/**
 * Rows of a heat map from a tree of parameters: parameters as they are, closed groups as the extremes
 * over what is in them.
 *
 * @module views/_layers_heat
 */

const NONE = 8;

/**
 * The data of the rows that are shown.
 *
 * @param {object[]} items Of `shownNodes`.
 * @param {{rows: object[], low: Float32Array, high: Float32Array, flags: Uint8Array, columns: number}} series
 * @returns {{rows: object[], low: Float32Array, high: Float32Array, flags: Uint8Array}}
 */
export function shownRows(items, series) {
  const { columns } = series;
  const low = new Float32Array(items.length * columns).fill(NaN);
  const high = new Float32Array(items.length * columns).fill(NaN);
  const flags = new Uint8Array(items.length * columns).fill(NONE);
  items.forEach((item, place) => {
    if (item.isOpen) return;
    const start = place * columns;
    if (!item.isGroup) {
      const from = item.node.row * columns;
      low.set(series.low.subarray(from, from + columns), start);
      high.set(series.high.subarray(from, from + columns), start);
      flags.set(series.flags.subarray(from, from + columns), start);
      return;
    }
    for (const row of item.node.rows) merge({ low, high, flags }, start, series, row * columns);
  });
  return { rows: items.map(described), low, high, flags };
}

function merge(into, start, from, at) {
  for (let column = 0; column < from.columns; column += 1) {
    const place = start + column;
    const low = from.low[at + column];
    const high = from.high[at + column];
    const bits = from.flags[at + column];
    // nan compares as false, so the first value replaces it.
    if (Number.isFinite(low) && !(into.low[place] <= low)) into.low[place] = low;
    if (Number.isFinite(high) && !(into.high[place] >= high)) into.high[place] = high;
    // A group has no value only where none of its rows has one.
    into.flags[place] =
      (into.flags[place] | bits) &
      (bits & NONE ? 0xff : ~NONE) &
      (into.flags[place] & NONE ? 0xff : ~NONE);
  }
}

function described({ node, isGroup, isOpen }) {
  if (!isGroup) return { label: node.path, title: node.path };
  const what = `${node.path} (extremes of ${node.rows.length} rows)`;
  return { label: isOpen ? node.path : what, title: isOpen ? node.path : what, blank: isOpen };
}

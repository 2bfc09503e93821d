/**
 * A step's change of the loss, taken apart by layer.
 *
 * @module views/_steps_apart
 */

import { shortNames } from "./_names.js";
import { decoded } from "./_values.js";

const MANY = 24;
const SHOWN = 20;
/** A canvas has an end. */
const MOST = 300;

/**
 * @typedef {object} Share
 * @property {string} layer
 * @property {string} name Its name, short.
 * @property {number} predicted g·Δθ.
 * @property {number} curved First and second order together; nan where there is no second.
 * @property {number} actual
 */

/**
 * What all else equal says of a step, with numbers decoded.
 *
 * @param {object} record `.probe`'s `all_else_equal`.
 * @returns {object} `before`, `after`, `actual`, `predicted`, `curved`, `interaction`, `layers` (of
 *   `Share`), `prefix`, and the record's `sentence`, `method`, `missing`, `rounding`.
 */
export function takenApart(record) {
  const { short, prefix } = shortNames(record.layers.map(({ layer }) => layer));
  const layers = record.layers.map((share, place) => {
    const predicted = decoded(share.predicted);
    const second = decoded(share.second_order);
    return {
      layer: share.layer,
      name: short[place],
      predicted,
      second,
      curved: predicted + second,
      actual: decoded(share.actual),
    };
  });
  const [before, after, predicted] = ["before", "after", "predicted"].map((name) => decoded(record[name]));
  return {
    ...record,
    before,
    after,
    predicted,
    layers,
    prefix,
    actual: after - before,
    curved: predicted + decoded(record.second_order),
    interaction: decoded(record.interaction),
    rounding: decoded(record.rounding),
  };
}

/**
 * The layers to be shown, in order, and those that are not, added up.
 *
 * @param {Share[]} layers In the model's order.
 * @param {{bySize: boolean, all: boolean}} options
 * @returns {{shown: Share[], others: Share|null, count: number}} `count`: how many are added up.
 */
export function selectedShares(layers, { bySize, all }) {
  const size = ({ actual }) => (Number.isFinite(actual) ? Math.abs(actual) : Infinity);
  const sorted = [...layers].sort((a, b) => size(b) - size(a));
  const kept = sorted.slice(0, all || layers.length <= MANY ? MOST : SHOWN);
  const rest = sorted.slice(kept.length);
  const inOrder = new Set(kept);
  const shown = bySize ? kept : layers.filter((share) => inOrder.has(share));
  return { shown, others: rest.length ? summed(`… ${rest.length} others`, rest) : null, count: rest.length };
}

/** Several layers as one. */
export function summed(name, shares) {
  const add = (key) => shares.reduce((sum, share) => sum + share[key], 0);
  return {
    layer: name,
    name,
    predicted: add("predicted"),
    second: add("second"),
    curved: add("curved"),
    actual: add("actual"),
  };
}

/** A change with its sign. */
export function signed(value, text) {
  return value > 0 ? `+${text}` : text;
}

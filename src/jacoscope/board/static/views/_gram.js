/**
 * What the Gram matrix of a batch says: cosines of pairs, within classes and between them.
 *
 * @module views/_gram
 */

import { compareIds } from "./_ranking.js";

/**
 * cos(g_i, g_k) = K_ik / √(K_ii K_kk); not a number where a gradient is zero.
 *
 * @param {ArrayLike<number>} gram K, n × n.
 * @param {number} n
 * @returns {Float32Array}
 */
export function cosines(gram, n) {
  const norms = Float64Array.from({ length: n }, (_, i) => Math.sqrt(gram[i * n + i]));
  const result = new Float32Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < n; k++) {
      const cosine = gram[i * n + k] / (norms[i] * norms[k]);
      // Rounding in single precision may pass 1 by a little.
      result[i * n + k] = Number.isFinite(cosine) ? Math.max(-1, Math.min(1, cosine)) : NaN;
    }
  }
  return result;
}

/** The absolute value that a share of all values does not exceed. */
export function quantileOfSizes(values, share) {
  const sizes = Float64Array.from(values, Math.abs).filter(Number.isFinite).sort();
  return sizes.length ? sizes[Math.floor(share * (sizes.length - 1))] : 1;
}

/**
 * Means over pairs of different samples.
 *
 * @param {Float32Array} cosine n × n.
 * @param {number} n
 * @param {(string|number|null)[]} labels
 * @returns {{all: number, within: number, between: number, negative: number, pairs: number,
 *   classes: (string|number)[], table: Float64Array}} `table`: mean cosines, class × class, row by row.
 */
export function pairSummary(cosine, n, labels) {
  const known = labels.filter((label) => label !== null && label !== undefined);
  const classes = [...new Set(known)].sort(compareIds);
  const places = new Map(classes.map((label, place) => [label, place]));
  const c = classes.length;
  const sums = new Float64Array(c * c);
  const counts = new Float64Array(c * c);
  const all = mean();
  const within = mean();
  const between = mean();
  let negative = 0;
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < n; k++) {
      const value = cosine[i * n + k];
      if (i === k || Number.isNaN(value)) continue;
      all.add(value);
      if (value < 0) negative += 1;
      const [a, b] = [places.get(labels[i]), places.get(labels[k])];
      if (a === undefined || b === undefined) continue;
      (a === b ? within : between).add(value);
      sums[a * c + b] += value;
      counts[a * c + b] += 1;
    }
  }
  return {
    all: all.value(),
    within: within.value(),
    between: between.value(),
    negative: negative / all.count(),
    pairs: all.count() / 2,
    classes,
    table: sums.map((sum, place) => sum / counts[place]),
  };
}

function mean() {
  let sum = 0;
  let count = 0;
  return {
    add(value) {
      sum += value;
      count += 1;
    },
    value: () => sum / count,
    count: () => count,
  };
}

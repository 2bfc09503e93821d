/**
 * What the line charts of the outputs view show, made from the server's replies.
 *
 * @module views/_output_curves
 */

import { step as stepText } from "../format.js";
import { colorOf } from "./_marks.js";
import { largestOverSteps, leftOut, ranked, spectrumLines } from "./_spectra.js";
import { placesWithin } from "./_values.js";

const TOP = 4;
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3], [4, 2]];

/** Singular values of ∂f/∂x at a step, a line for each sample. */
export function singularSpec({ meta, arrays }, theme) {
  const found = arrays.input_singular_values;
  // A single value of each sample is a point; the chart over the run has it.
  if (!found || found.shape[1] < 2) return null;
  const [n, k] = found.shape;
  const rows = Array.from({ length: n }, (_, i) => found.data.subarray(i * k, (i + 1) * k));
  return {
    title: `Singular values of ∂f/∂x at step ${stepText(meta.step)}`,
    note: `How far the outputs move per unit of input, direction by direction; a line for each sample. ${leftOut(found.data)}`,
    name: "input_singular_values",
    xLabel: "number, largest first",
    xFormat: String,
    yLabel: "output per unit of input",
    log: true,
    height: 220,
    series: rows.map((values, i) => ({
      label: String(meta.ids[i] ?? `sample ${i}`),
      color: colorOf(i, theme),
      dash: DASHES[i % DASHES.length],
      x: Float64Array.from({ length: k }, (_, at) => at + 1),
      value: Float64Array.from(values, (value) => (value > 0 ? value : NaN)),
    })),
  };
}

/** The largest singular values over probes, of one sample or of all with their spread. */
export function singularCourse({ meta, arrays }, sample, range, theme) {
  const steps = arrays.step.data;
  const [, n, k] = arrays.values.shape;
  const { data } = arrays.values;
  const inside = placesWithin(steps, range);
  const chosen = sample === null ? Array.from({ length: n }, (_, i) => i) : [sample];
  const at = (step, rank) => chosen.map((i) => data[(step * n + i) * k + rank]).filter(Number.isFinite);
  const ranks = [...new Set([0, 1, 2, k - 1])].filter((rank) => rank >= 0 && rank < k);
  return {
    title: "Singular values of ∂f/∂x over the run",
    note:
      sample === null
        ? "Mean over samples, with a band from the lowest to the highest."
        : `Of ${meta.rows[sample]} alone.`,
    name: "input_singular_values_over_steps",
    xLabel: "step",
    yLabel: "output per unit of input",
    log: true,
    height: 220,
    series: ranks.map((rank, line) => ({
      label: `${ranked("σ", rank)}${rank === k - 1 && k > 3 ? ", the smallest" : ""}`,
      color: colorOf(line, theme),
      dash: DASHES[line],
      x: Float64Array.from(inside, (place) => steps[place]),
      low: Float64Array.from(inside, (place) => Math.min(...at(place, rank))),
      high: Float64Array.from(inside, (place) => Math.max(...at(place, rank))),
      value: Float64Array.from(inside, (place) => mean(at(place, rank))),
    })),
  };
}

/** Eigenvalues of the tangent kernel of a row, at a step and over the run. */
export function kernelSpecs({ meta, arrays }, row, step, range, theme) {
  const steps = Array.from(arrays.step.data);
  const [, r, k] = arrays.values.shape;
  const place = Math.max(0, meta.rows.indexOf(row));
  const valueAt = (at, rank) => arrays.values.data[(at * r + place) * k + rank];
  const valuesOf = (at) =>
    arrays.values.data
      .subarray((at * r + place) * k, (at * r + place + 1) * k)
      .filter((value) => !Number.isNaN(value));
  const inside = placesWithin(steps, range);
  const now = Math.max(0, steps.indexOf(step));
  const of = row === "(all)" ? "of the whole model" : `of ${row}`;
  const yLabel = "(output per unit of θ)²";
  return [
    {
      ...spectrumLines({
        now: { step: steps[now], values: valuesOf(now) },
        first: { step: steps[0], values: valuesOf(0) },
        theme,
      }),
      title: `Tangent kernel's eigenvalues ${of} at step ${stepText(steps[now])}`,
      note: `Large ones are directions of the outputs that training learns fast, small ones slowly. ${leftOut(valuesOf(now))}`,
      name: "ntk_spectrum",
      yLabel,
    },
    {
      title: `Tangent kernel's largest eigenvalues ${of} over the run`,
      note: "The fastest directions: where they grow, features are being learnt.",
      name: "ntk_eigenvalues_over_steps",
      xLabel: "step",
      yLabel,
      log: true,
      height: 210,
      series: largestOverSteps({
        steps: inside.map((at) => steps[at]),
        valueAt: (at, rank) => valueAt(inside[at], rank),
        count: Math.min(TOP, k),
        symbol: "λ",
        theme,
      }),
    },
  ];
}

/** A quantity of the whole model over the run, with its standard error where it is an estimate. */
export function courseSpec({ meta, arrays }, reading, theme) {
  const row = meta.rows.findIndex(({ name }) => name === "(all)" || name === "(input)");
  if (row < 0 && meta.rows.length !== 1) return null;
  const columns = arrays.step.data.length;
  const part = (name) =>
    arrays[name]?.data.subarray(Math.max(row, 0) * columns, (Math.max(row, 0) + 1) * columns);
  const [low, high, error] = ["low", "high", "error"].map(part);
  const middle = Float64Array.from(low, (value, i) => (value + high[i]) / 2);
  const series = { label: meta.title, color: theme.token("--series-1"), x: arrays.step.data, value: middle };
  const spread = error
    ? {
        low: middle.map((value, i) => value - (error[i] || 0)),
        high: middle.map((value, i) => value + (error[i] || 0)),
      }
    : { low, high };
  return {
    title: meta.title,
    note: [reading, error ? "Band: ± one standard error." : ""].filter(Boolean).join(" "),
    name: meta.quantity,
    xLabel: "step",
    yLabel: meta.unit === "1" ? "no unit" : meta.unit,
    log: Boolean(meta.log),
    height: 180,
    series: [{ ...series, ...spread }],
  };
}

function mean(values) {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : NaN;
}

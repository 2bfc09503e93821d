/**
 * What the figures of the agreement view show, made from the server's replies.
 *
 * @module views/_agreement_specs
 */

import { number, step as stepText } from "../format.js";
import { cosines, quantileOfSizes } from "./_gram.js";
import { largestOverSteps, leftOut, spectrumLines } from "./_spectra.js";
import { placesWithin } from "./_values.js";

const TOP = 4;
/** Most values of a Gram matrix are far below its largest; colours end here. */
const COLOURED = 0.98;

/** A batch's Gram matrix in the form that its figures take. */
export function understood({ meta, arrays }, mode) {
  const { n, labels } = meta;
  const gram = arrays.gram.data;
  const isNamed = (labels ?? []).some((label) => label !== null && label !== undefined);
  return {
    ...meta,
    labels: labels ?? [],
    gram,
    cosine: cosines(gram, n),
    order: arrays.order.data,
    mode,
    isNamed,
  };
}

/** The matrix of the batch, for `matrix`. */
export function matrixSpec({ n, step, samples, ids, labels, losses, order, mode, cosine, gram, isNamed }) {
  const isGram = mode === "gram";
  const classOf = (i) => (labels[i] === null || labels[i] === undefined ? "?" : String(labels[i]));
  const ordered = isNamed ? "ordered by class" : "in the order of the first eigenvector";
  const most = isGram ? quantileOfSizes(gram, COLOURED) : 1;
  const notes = [
    `${n} samples against each other, ${ordered}. Red: they pull together; blue: against each other.`,
    isGram ? `Colours end at ±${number(most)}.` : "",
    samples > n ? `${n} of the batch's ${number(samples)} samples.` : "",
  ];
  return {
    title: `${isGram ? "Gram matrix g_i·g_k" : "Cosines of gradients"} at step ${stepText(step)}`,
    note: notes.filter(Boolean).join(" "),
    name: isGram ? "gram_matrix" : "gradient_cosines",
    values: isGram ? gram : cosine,
    n,
    order,
    labels: Array.from(
      ids,
      (id, i) => `${id} (${isNamed ? `class ${classOf(i)}, ` : ""}loss ${number(losses?.[i])})`,
    ),
    groups: isNamed ? Array.from(ids, (_, i) => classOf(i)) : undefined,
    diverging: true,
    range: [-most, most],
    unit: isGram ? "(loss per unit of parameter)²" : "cosine",
    size: 640,
  };
}

/** The eigenvalues at a step, for `lineChart`. */
export function spectrumSpec(course, step, theme) {
  const { steps, n } = course.meta;
  const valuesOf = (place) => {
    const width = course.arrays.spectra.shape[1];
    const row = course.arrays.spectra.data.subarray(place * width, (place + 1) * width);
    return row.filter((_, rank) => rank < n[place]);
  };
  const place = steps.indexOf(step);
  const values = valuesOf(place);
  const part = n[place] > values.length ? `The first ${values.length} of ${n[place]}.` : "";
  return {
    ...spectrumLines({ now: { step, values }, first: { step: steps[0], values: valuesOf(0) }, theme }),
    title: `Eigenvalues of the Gram matrix at step ${stepText(step)}`,
    note: ["One far above the rest: samples pull in one direction.", part, leftOut(values)]
      .filter(Boolean)
      .join(" "),
    name: "gram_spectrum",
    yLabel: "eigenvalue",
  };
}

/** Line charts over the recorded steps of a range. */
export function specsOverSteps({ arrays, meta }, range, theme) {
  const inside = placesWithin(meta.steps, range);
  const steps = inside.map((place) => meta.steps[place]);
  const width = arrays.spectra.shape[1];
  const line = (label, name, place) => [
    {
      label,
      color: theme.token(`--series-${place}`),
      x: Float64Array.from(steps),
      value: Float64Array.from(inside, (at) => arrays[name].data[at]),
    },
  ];
  return [
    {
      title: "Largest eigenvalues",
      note: "How much of what samples ask for lies in the first directions.",
      name: "gram_eigenvalues",
      yLabel: "eigenvalue",
      log: true,
      series: largestOverSteps({
        steps,
        count: Math.min(TOP, width),
        symbol: "λ",
        theme,
        valueAt: (at, rank) => arrays.spectra.data[inside[at] * width + rank],
      }),
    },
    {
      title: "Effective rank",
      note: `How many directions the samples pull in, at most their number, ${number(Math.max(...meta.n))}.`,
      name: "gram_effective_rank",
      yLabel: "directions",
      series: line("effective rank", "effective_rank", 3),
    },
    {
      title: "Share of the first direction",
      note: "Its eigenvalue in the sum of all. 1: all samples pull in one direction.",
      name: "gram_top_share",
      yLabel: "λ₁ / Σλ",
      series: line("share of λ₁", "top_share", 4),
    },
  ];
}

/** A number of the course at a step. */
export function numberAt(course, name, step) {
  return course.arrays[name].data[course.meta.steps.indexOf(step)];
}

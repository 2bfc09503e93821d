/**
 * Loss against gradient norm of all samples: those that stand apart are seen at a glance.
 *
 * @module views/_samples_scatter
 */

import { csv, number } from "../format.js";
import { classCounts } from "./_ranking.js";
import { scatter } from "./_scatter.js";

/**
 * @param {HTMLElement} container
 * @param {{theme: object, announce: (text: string) => void, onPick: (index: number) => void}} options
 * @returns {{set: (columns: object, order: number[], selected: number) => void, destroy: () => void}}
 */
export function lossByNorm(container, { theme, announce, onPick }) {
  let order = [];
  const chart = scatter(container, {
    title: "Loss against gradient norm",
    note: "Each mark is a sample that passes the filters; ringed is the one chosen. Those at the upper right are hard and pull hard.",
    name: "samples_loss_against_norm",
    theme,
    height: 250,
    announce,
    onPick: (point) => onPick(order[point]),
  });
  return {
    destroy: chart.destroy,
    set(columns, indices, selected) {
      order = indices;
      chart.set(specOf(columns, indices, selected));
    },
  };
}

function specOf(columns, order, selected) {
  const labels = classCounts(columns.label).map(([label]) => label);
  const places = new Map(labels.map((label, place) => [label, place]));
  const isDrawn = (index) => columns.loss[index] > 0 && columns.norm[index] > 0;
  const drawn = order.filter(isDrawn).length;
  const log = drawn > 0;
  // What has no place on one axis must not stretch the other.
  const valuesOf = (name) =>
    Float64Array.from(order, (index) => (log && !isDrawn(index) ? NaN : columns[name][index]));
  const [x, y] = [valuesOf("loss"), valuesOf("norm")];
  const lost =
    log && drawn < order.length
      ? ` ${number(order.length - drawn)} with a loss or a norm of zero, or none, are not on it.`
      : "";
  return {
    x,
    y,
    groups: Array.from(order, (index) => places.get(columns.label[index])),
    names: labels.map((label) => (label === null ? "no class" : `class ${label}`)),
    xLabel: log ? "loss, logarithmic" : "loss",
    yLabel: log ? "gradient norm, log." : "gradient norm",
    logX: log,
    logY: log,
    selected: order.indexOf(selected),
    hint: lost.trim() || "Point at a mark to read it, click it for details.",
    describe: (point) => {
      const index = order[point];
      const label = columns.label[index];
      return `Sample ${columns.id[index]}${label === null ? "" : `, class ${label}`}: loss ${number(columns.loss[index])}, norm ${number(columns.norm[index])}`;
    },
    summary: `Scatter plot of ${number(drawn)} samples, loss along x, gradient norm along y.${lost}`,
    csv: () =>
      csv([
        ["id", "label", "loss", "norm"],
        ...order.map((i) => [columns.id[i], columns.label[i], columns.loss[i], columns.norm[i]]),
      ]),
  };
}

/**
 * The numbers of all else equal: by layer, by single weight, and promise against fact.
 *
 * @module views/_else_tables
 */

import { frame } from "../export.js";
import { csv, number, percent } from "../format.js";
import { scatter } from "./_scatter.js";
import { sortedTable } from "./_sorted_table.js";
import { signed } from "./_steps_apart.js";
import { decoded } from "./_values.js";

const change = (value) => signed(value, number(value));

/** Promise along x, fact along y, a mark for each layer. */
export function promiseScatter(container, { theme, announce }) {
  const chart = scatter(container, {
    title: "Promise against fact",
    note: "A mark for each layer. On the dashed line the promise was kept; above it the layer did worse than its derivative had promised.",
    name: "promise_against_fact",
    theme,
    height: 250,
    announce,
  });
  return {
    destroy: chart.destroy,
    set({ layers }) {
      chart.set({
        x: Float64Array.from(layers, ({ predicted }) => predicted),
        y: Float64Array.from(layers, ({ actual }) => actual),
        groups: layers.map(() => 0),
        names: ["layer"],
        xLabel: "promised change g·Δθ",
        yLabel: "change alone",
        diagonal: true,
        selected: -1,
        hint: "Point at a mark to read it.",
        describe: (place) =>
          `${layers[place].layer}: promised ${change(layers[place].predicted)}, did ${change(layers[place].actual)}`,
        summary: `Scatter plot of ${layers.length} layers, promised change along x, actual change along y.`,
        csv: () =>
          csv([
            ["layer", "predicted", "actual"],
            ...layers.map((share) => [share.layer, share.predicted, share.actual]),
          ]),
      });
    },
  };
}

/** All numbers by layer. */
export function layerTable(container, { onSort }) {
  let rows = [];
  const { body } = frame(container, {
    title: "Numbers by layer",
    note: "In units of the loss; negative lowers it.",
    name: "all_else_equal_by_layer",
    csv: () =>
      csv([
        ["layer", "promised", "second_order", "actual", "kept"],
        ...rows.map((row) => [row.layer, row.predicted, row.second, row.actual, row.kept]),
      ]),
  });
  const table = sortedTable(body, {
    caption: "All else equal by layer",
    onSort,
    columns: [
      { key: "layer", title: "Layer", isText: true, show: (text) => text },
      { key: "predicted", title: "Promised g·Δθ", show: change },
      { key: "second", title: "Second order", show: change },
      { key: "actual", title: "Did alone", show: change },
      { key: "apart", title: "Did − promised", show: change },
      {
        key: "kept",
        title: "Kept",
        show: (share) => percent(share, 0),
        hint: "What it did, as a share of what it had promised",
      },
    ],
  });
  return {
    set({ layers }, sort) {
      rows = layers.map((share) => ({
        ...share,
        apart: share.actual - share.predicted,
        kept: share.predicted ? share.actual / share.predicted : NaN,
      }));
      table.set(rows, sort);
    },
  };
}

/** Single weights: the derivative against a finite difference. */
export function weightTable(container, { onSort }) {
  let rows = [];
  const { body, node } = frame(container, {
    title: "Single weights, checked",
    note: "The weights whose derivative mattered most in the step: ∂L/∂θ by autograd against (L(θ + h) − L(θ − h)) / 2h, the slope seen by moving that weight alone.",
    name: "single_weights",
    csv: () =>
      csv([
        ["parameter", "index", "derivative", "finite_difference", "rounding", "h", "step"],
        ...rows.map((row) => [
          row.parameter,
          row.index.join(" "),
          row.derivative,
          row.difference,
          row.error,
          row.h,
          row.step,
        ]),
      ]),
  });
  const table = sortedTable(body, {
    caption: "Single weights",
    onSort,
    columns: [
      { key: "name", title: "Weight", isText: true, show: (text) => text },
      { key: "derivative", title: "Derivative", show: (value) => number(value, 4) },
      {
        key: "difference",
        title: "Slope seen",
        show: (value, row) => `${number(value, 4)} ± ${number(row.error, 1)}`,
        hint: "Finite difference, ± what rounding of the loss alone may put it off",
      },
      {
        key: "apart",
        title: "Apart",
        show: (value, row) => (row.isWithin ? "rounding ✓" : percent(value, 1)),
        hint: "Their difference as a share of the larger one",
      },
    ],
  });
  return {
    set(weights, sort) {
      rows = weights.map(checked);
      node.hidden = rows.length === 0;
      table.set(rows, sort);
    },
  };
}

function checked(weight) {
  const [derivative, difference, error] = [weight.derivative, weight.difference, weight.error].map(decoded);
  const apart = Math.abs(derivative - difference);
  return {
    ...weight,
    name: `${weight.parameter}[${weight.index.join(", ")}]`,
    derivative,
    difference,
    error,
    apart: apart / (Math.max(Math.abs(derivative), Math.abs(difference)) || 1),
    isWithin: apart <= error,
    h: decoded(weight.h),
    step: decoded(weight.step),
  };
}

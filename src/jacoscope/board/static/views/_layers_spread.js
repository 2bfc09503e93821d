/**
 * How a row's numbers are spread at a step: over its weights, and over the samples of the batch.
 *
 * @module views/_layers_spread
 */

import { lineChart } from "../chart.js";
import { h, replace } from "../dom.js";
import { emptyState } from "../empty.js";
import { axis, percent, step } from "../format.js";
import { histogram, octaves } from "../histogram.js";
import { isWhole } from "../tree.js";

const POINTS = 600;
const BANDS = [
  [0, 6, "smallest to largest"],
  [1, 5, "5 % to 95 %"],
  [2, 4, "25 % to 75 %"],
];

/** The two figures, side by side in `container`. */
export class Spread {
  constructor(container, context) {
    this.context = context;
    this.weights = { place: h("div", { class: "figure-slot" }), chart: null };
    this.samples = { place: h("div", { class: "figure-slot" }), chart: null };
    container.append(this.weights.place, this.samples.place);
  }

  /**
   * @param {object} run
   * @param {{row: string, kind: string, step: number, marker: number|null, from: number|null, to: number|null,
   *   log: boolean}} what The row's name and kind, the step of the histogram, the step to mark, the range of steps.
   */
  async update(run, what) {
    await Promise.all([this.#updateWeights(run, what), this.#updateSamples(run, what)]);
  }

  destroy() {
    this.weights.chart?.destroy();
    this.samples.chart?.destroy();
  }

  async #updateWeights(run, { row, kind, step: at }) {
    if (!run.has.histograms) return this.#empty(this.weights, NO_HISTOGRAM);
    if (isWhole(kind)) return this.#empty(this.weights, notOfWholes(row));
    const query = { run: run.run, group: run.group, row, step: at };
    const reply = await this.#ask("data/distribution", query, this.weights, row);
    if (!reply) return;
    const { meta, arrays } = reply;
    const [edges, counts] = [arrays.edges.data, arrays.counts.data];
    const { zero, total } = octaves(edges, counts);
    this.#show(this.weights, histogram, {
      title: `Gradients of the weights of ${row}`,
      note: `Step ${step(meta.step)}, ${run.label}. Bars: share of its weights per factor of two; grey: at zero (${percent(total ? zero / total : 0)}).`,
      name: `distribution_${row}_step_${meta.step}`,
      edges,
      counts,
      unit: "loss per unit of parameter",
      color: this.context.theme.token("--series-1"),
    });
  }

  async #updateSamples(run, { row, marker, from, to, log }) {
    if (!run.has.sample_quantiles) return this.#empty(this.samples, NO_QUANTILES);
    const query = { run: run.run, group: run.group, row, from, to, points: POINTS };
    const reply = await this.#ask("data/quantiles", query, this.samples, row);
    if (!reply) return;
    const { meta, arrays } = reply;
    const x = arrays.step.data;
    const cut = (place) => arrays.values.data.subarray(place * x.length, (place + 1) * x.length);
    const color = this.context.theme.token("--series-1");
    const bands = BANDS.map(([low, high, label], place) => ({
      label,
      color,
      dash: [[2, 3], [6, 3], []][place],
      width: 1,
      x,
      low: cut(low),
      high: cut(high),
    }));
    this.#show(this.samples, lineChart, {
      title: `Per-sample gradient norms of ${row}`,
      note: `Over the samples of each captured batch, ${run.label}. A wide fan: few samples carry the gradient.`,
      name: `sample_quantiles_${row}`,
      xLabel: "Step",
      yLabel: axis("Gradient norm of a sample", meta.unit),
      log,
      series: [
        ...bands,
        {
          label: "median",
          color: this.context.theme.token("--text"),
          dash: [],
          width: 2,
          x,
          value: cut(3),
        },
      ],
      height: 240,
      markers: marker === null ? [] : [{ x: marker, label: "chosen step" }],
      onZoom: (range) => this.context.setRange(range),
    });
  }

  /** A reply, or null where there is none for this row, which is said in place of the figure. */
  async #ask(path, query, slot, row) {
    const reply = await this.context.api.getArrays(path, query);
    if (!reply.meta.absent) return reply;
    this.#empty(slot, { title: `Not recorded for ${row}`, text: sentence(reply.meta.absent) });
    return null;
  }

  #show(slot, make, spec) {
    if (slot.chart) {
      slot.chart.set(spec);
      return;
    }
    replace(slot.place);
    slot.chart = make(slot.place, spec);
  }

  #empty(slot, state) {
    slot.chart?.destroy();
    slot.chart = null;
    replace(slot.place, emptyState(state));
  }
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

const notOfWholes = (row) => ({
  title: `No distribution over the weights of ${row}`,
  text: "This row measures several parameters as one, and histograms are of single parameters: choose one of those.",
});
const NO_HISTOGRAM = {
  title: "Distribution over the weights: not recorded",
  text: "With grad_histogram among the quantities, this shows how the gradients of a row's weights are spread at the chosen step: their width, their tails, and how many are zero.",
  yaml: "monitor:\n  quantities: [grad_norm, grad_rms, update_ratio, grad_histogram]\n",
};
const NO_QUANTILES = {
  title: "Distribution over the samples: not recorded",
  text: "With a per-sample quantity, this shows how the gradient norms of the samples in a batch are spread: whether few of them carry the gradient.",
  yaml: "monitor:\n  quantities: [grad_norm, grad_rms, update_ratio, sample_grad_norm]\n",
};

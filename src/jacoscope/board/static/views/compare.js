/**
 * Compare: where do two runs differ?
 *
 * @module views/compare
 */

import { lineChart } from "../chart.js";
import { button, h, labelled, replace, select } from "../dom.js";
import { emptyState } from "../empty.js";
import { frame } from "../export.js";
import { axis, number, step } from "../format.js";
import { byChange, isRatioScale, joined, rowNumbers } from "./_compare_data.js";
import { drawTable, tableCsv, tablePicture } from "./_compare_table.js";
import { fetchRows, measured } from "./_layers_curves.js";
import { plottable } from "./_quantity.js";

const FIRST = "grad_rms";
const STATISTICS = [
  { value: "last", text: "last value in range" },
  { value: "median", text: "median over range" },
];
const ORDERS = [
  { value: "model", text: "model order" },
  { value: "change", text: "largest difference" },
];

export const compare_view = {
  id: "compare",
  title: "Compare",
  needs: (run) => plottable(run).length > 0 || "This run has no quantities by layer in its record.",
  mount: (context) => new Compare(context),
};

class Compare {
  constructor(context) {
    this.context = context;
    this.controls = h("div", { class: "controls" });
    this.body = h("div");
    this.content = h("div");
    const note = h("p", { class: "note" }, "Two runs, layer by layer. The models may differ.");
    context.root.append(
      h("div", { class: "view-head" }, h("h2", null, "Compare"), note),
      this.controls,
      this.body,
    );
    this.frame = frame(this.content, {
      title: "Layer by layer",
      name: "compare",
      png: () => tablePicture(this.table),
      csv: () => tableCsv(this.table),
    });
    this.chartPlace = h("div");
    this.content.append(this.chartPlace);
  }

  async update() {
    const { context } = this;
    const all = context.runs();
    const pair = this.#pair(all);
    if (!pair) {
      replace(this.controls);
      this.controlsKey = null;
      replace(
        this.body,
        emptyState({
          title: "There is only one run to compare",
          text: "Train another run with its logs in the same folder: with another learning rate, model or seed. Then both can be chosen here.",
        }),
      );
      return;
    }
    const [a, b] = pair;
    const quantity = this.#quantity(a, b);
    const statistic = context.state.get("compare_statistic") === "median" ? "median" : "last";
    this.#drawControls(all, a, b, quantity, statistic);
    if (!quantity) {
      replace(
        this.body,
        emptyState({
          title: "These runs have no quantity in common",
          text: "Compare needs one that both have recorded; the monitor's option quantities says which are.",
        }),
      );
      return;
    }
    const [from, to] = context.range();
    const what = { quantity: quantity.name, from, to, statistic };
    const [one, two] = await Promise.all([
      rowNumbers(context.api, a, what),
      rowNumbers(context.api, b, what),
    ]);
    if (this.content.parentNode !== this.body) replace(this.body, this.content);
    this.#drawTable(a, b, quantity, statistic, one, two);
    await this.#drawChart(a, b, quantity);
  }

  unmount() {
    this.chart?.destroy();
  }

  /** The runs of the link; else the one in focus, and another selected one or the newest other. */
  #pair(all) {
    if (all.length < 2) return null;
    const { state, focus, selected } = this.context;
    const named = (key) => all.find((run) => run.id === state.get(key));
    const a = named("compare_a") ?? focus();
    const others = (runs) => runs.filter((run) => run.id !== a.id);
    const newest = others(all).sort((x, y) => y.wall_time - x.wall_time)[0];
    return [a, named("compare_b") ?? others(selected())[0] ?? newest];
  }

  #quantity(a, b) {
    const common = commonQuantities(a, b);
    const asked = this.context.state.get("quantity");
    const find = (name) => common.find((one) => one.name === name);
    return find(asked) ?? find(FIRST) ?? common[0] ?? null;
  }

  #drawControls(all, a, b, quantity, statistic) {
    const { state } = this.context;
    const common = commonQuantities(a, b);
    const order = state.get("compare_order") === "change" ? "change" : "model";
    const key = JSON.stringify([
      all.map((run) => run.label),
      a.id,
      b.id,
      common.map((one) => one.name),
      quantity?.name,
      statistic,
      order,
    ]);
    if (key === this.controlsKey) return;
    this.controlsKey = key;
    const active = this.controls.contains(document.activeElement)
      ? document.activeElement.dataset.key
      : null;
    const runs = all.map((run) => ({ value: run.id, text: run.label }));
    const chooser = (label, choices, value, name, extra = {}) =>
      labelled(
        label,
        select({
          choices,
          value,
          onChange: (next) => state.set({ [name]: next, ...extra }),
          props: { "data-key": name },
        }),
      );
    replace(
      this.controls,
      chooser("Run A", runs, a.id, "compare_a", { compare_b: b.id }),
      button("⇄ Swap", () => state.set({ compare_a: b.id, compare_b: a.id }), {
        "aria-label": "Swap A and B",
        "data-key": "swap",
      }),
      chooser("Run B", runs, b.id, "compare_b", { compare_a: a.id }),
      chooser("Quantity", common.map(choice), quantity?.name ?? null, "quantity", { scale: null }),
      chooser("Value", STATISTICS, statistic, "compare_statistic"),
      chooser("Order", ORDERS, order, "compare_order"),
    );
    if (active) this.controls.querySelector(`[data-key="${active}"]`)?.focus();
  }

  #drawTable(a, b, quantity, statistic, one, two) {
    const { state } = this.context;
    const isRatio = isRatioScale(one.rows, two.rows);
    const rows = joined(one.rows, two.rows, isRatio);
    const marked = rows.filter((row) => row.isMarked).length;
    const title = `${quantity.title || quantity.name}: A ${a.label}, B ${b.label}`;
    this.table = {
      rows: state.get("compare_order") === "change" ? byChange(rows) : rows,
      isRatio,
      a: a.label,
      b: b.label,
      chosen: this.#chosen(rows),
      onChoose: (name) => state.set({ compare_row: name }),
    };
    this.frame.setTitle(
      title,
      `${this.#basis(statistic, quantity, one, two)} ${summary(rows, marked, isRatio)}`,
    );
    drawTable(this.frame.body, this.table);
  }

  #basis(statistic, quantity, one, two) {
    const unit = quantity.unit && quantity.unit !== "1" ? ` In ${quantity.unit}.` : "";
    if (statistic === "median") {
      return `Medians over ${number(one.meta.steps_in_range)} captured steps of A and ${number(two.meta.steps_in_range)} of B.${unit}`;
    }
    const last = ({ rows }) => Math.max(...[...rows.values()].map((row) => row.step ?? -1));
    return `Last values: step ${step(last(one))} of A, step ${step(last(two))} of B.${unit}`;
  }

  /** The row of the link, or the one that differs most. */
  #chosen(rows) {
    const asked = this.context.state.get("compare_row");
    if (rows.some((row) => row.name === asked)) return asked;
    return byChange(rows)[0]?.name ?? null;
  }

  async #drawChart(a, b, quantity) {
    const { context } = this;
    const [from, to] = context.range();
    const { chosen } = this.table;
    if (chosen === null) return;
    const what = { quantity: quantity.name, from, to, names: [chosen] };
    const fetched = await Promise.all([a, b].map((run) => fetchRows(context.api, run, what)));
    const series = fetched.flatMap((reply, place) =>
      reply ? [curve(reply, "AB"[place], place)] : [],
    );
    const scale = context.state.get("scale");
    const spec = {
      title: `${chosen} in both runs`,
      note: "The row that is chosen in the table. Bands span the extremes of a column.",
      name: `compare_${quantity.name}_${chosen}`,
      xLabel: "Step",
      yLabel: axis(quantity.title || quantity.name, quantity.unit),
      log: scale === "log" || (scale !== "linear" && quantity.log),
      series,
      height: 230,
      onZoom: (range) => context.setRange(range),
    };
    if (this.chart) this.chart.set(spec);
    else this.chart = lineChart(this.chartPlace, spec);
  }
}

function curve({ run, arrays }, letter, place) {
  return {
    label: `${letter}: ${run.label}`,
    color: run.color,
    dash: place === 0 ? [] : [7, 4],
    ...measured(arrays, 0),
  };
}

function summary(rows, marked, isRatio) {
  const only = rows.filter((row) => row.a === null || row.b === null).length;
  const both = rows.length - only;
  const first = `${number(marked)} of ${number(both)} common rows differ by more than a factor of two`;
  const second = only > 0 ? `; ${number(only)} are in one run only` : "";
  return `${first}${second}. ${isRatio ? "Bars: log₂(B/A)." : "Bars: B − A."}`;
}

function commonQuantities(a, b) {
  const names = new Set(plottable(b).map((one) => one.name));
  return plottable(a).filter((one) => names.has(one.name));
}

function choice({ name, title, family, probe }) {
  return { value: name, text: title || name, group: family || (probe ? "Probes" : "Quantities") };
}

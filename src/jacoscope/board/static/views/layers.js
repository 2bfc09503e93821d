/**
 * Layers: which layers does the loss depend on, and when?
 *
 * @module views/layers
 */

import { lineChart } from "../chart.js";
import { button, h, labelled, replace, select } from "../dom.js";
import { curvesSpec, fetchRows } from "./_layers_curves.js";
import { endsOf, layersData } from "./_layers_data.js";
import { LayersMap } from "./_layers_map.js";
import { Spread } from "./_layers_spread.js";
import { chosenQuantity, notRecorded, plottable, quantityChoice } from "./_quantity.js";

const SCALES = [
  { value: "log", text: "logarithmic" },
  { value: "linear", text: "linear" },
];
const SHOWN = [
  { value: "high", text: "highest in a cell" },
  { value: "low", text: "lowest in a cell" },
];

export const layers_view = {
  id: "layers",
  title: "Layers",
  needs: (run) => plottable(run).length > 0 || "This run has no quantities by layer in its record.",
  mount: (context) => new Layers(context),
};

class Layers {
  constructor(context) {
    this.context = context;
    const { state } = context;
    this.choice = quantityChoice((name) => state.set({ quantity: name, scale: null }));
    this.scale = h("span");
    this.show = h("span");
    this.clearRows = button("Clear rows", () => state.set({ rows: null }), { class: "tool" });
    this.subject = h("p", { class: "note" });
    this.places = {
      map: h("div"),
      curves: h("div"),
      row: h("div", { class: "controls" }),
      spread: h("div", { class: "figures" }),
    };
    this.body = h("div");
    this.map = new LayersMap(this.places.map, context);
    this.spread = new Spread(this.places.spread, context);
    const controls = [this.choice.control, this.scale, this.show, this.clearRows];
    context.root.append(
      h("div", { class: "view-head" }, h("h2", null, "Layers"), this.subject),
      h("div", { class: "controls" }, controls),
      this.choice.text,
      this.body,
    );
  }

  async update() {
    const { context } = this;
    const run = context.focus();
    const asked = context.state.get("quantity");
    const quantity = chosenQuantity(run, asked);
    this.subject.textContent = `Run ${run.label}. Rows: parameters in the model's order. Columns: captured steps.`;
    this.choice.set(run, quantity, asked);
    for (const control of [this.scale, this.show, this.clearRows]) {
      control.hidden = quantity === null;
    }
    if (quantity === null) {
      replace(this.body, notRecorded(run, asked ?? "grad_rms"));
      return;
    }
    this.data = await layersData(context, run, quantity);
    if (this.places.map.parentNode !== this.body) replace(this.body, Object.values(this.places));
    this.map.set(this.data);
    this.#drawControls();
    await Promise.all([this.#drawCurves(), this.#drawSpread()]);
  }

  unmount() {
    this.map.destroy();
    this.curves?.destroy();
    this.spread.destroy();
  }

  #drawControls() {
    const { state } = this.context;
    const shown = state.get("layers_show") === "low" ? "low" : "high";
    this.clearRows.disabled = this.data.isDefault;
    this.show.hidden = !this.map.isMerged;
    offer(this.scale, "Scale", SCALES, this.data.log ? "log" : "linear", (scale) =>
      state.set({ scale }),
    );
    offer(this.show, "Colour", SHOWN, shown, (value) =>
      state.set({ layers_show: value === "low" ? value : null }),
    );
  }

  async #drawCurves() {
    const { context, data } = this;
    const [from, to] = context.range();
    const what = { quantity: data.quantity.name, from, to, names: data.names };
    const runs = context.selected();
    const fetched = await Promise.all(runs.map((run) => fetchRows(context.api, run, what)));
    const lacking = runs.filter((run, place) => fetched[place] === null).map((run) => run.label);
    const basis = data.isDefault
      ? "No row is chosen: these are the first and the last one. Click rows above to choose."
      : "The chosen rows. Bands span the extremes of a column.";
    const spec = curvesSpec(fetched.filter(Boolean), {
      names: data.names,
      quantity: data.quantity,
      log: data.log,
      step: data.step,
      token: context.theme.token,
      onZoom: (range) => context.setRange(range),
      note: lacking.length > 0 ? `${basis} Without them: ${lacking.join(", ")}.` : basis,
    });
    if (this.curves) this.curves.set(spec);
    else this.curves = lineChart(this.places.curves, spec);
  }

  async #drawSpread() {
    const { context } = this;
    const { step, columnsLast, run, log, meta } = this.data;
    // Rows may have been chosen in a run with another model.
    const known = this.data.names.filter((name) => meta.rows.some((row) => row.name === name));
    const names = known.length > 0 ? known : endsOf(meta.rows);
    if (names.length === 0) return;
    const [from, to] = context.range();
    const asked = context.state.get("layers_row");
    const row = names.includes(asked) ? asked : names[names.length - 1];
    const choices = names.map((name) => ({ value: name, text: name }));
    offer(this.places.row, "Distributions of", choices, row, (name) =>
      context.state.set({ layers_row: name }),
    );
    const last = columnsLast[columnsLast.length - 1] ?? run.last_step;
    const { kind } = meta.rows.find((one) => one.name === row);
    await this.spread.update(run, {
      row,
      kind,
      step: step ?? last,
      marker: step,
      from,
      to,
      log,
    });
  }
}

/** A select in `place`; built anew only where it differs, so that the focus stays. */
function offer(place, label, choices, value, onChange) {
  const key = JSON.stringify([choices, value]);
  if (place.dataset.offered === key) return;
  place.dataset.offered = key;
  const hadFocus = place.contains(document.activeElement);
  replace(place, labelled(label, select({ choices, value, onChange })));
  if (hadFocus) place.querySelector("select").focus();
}

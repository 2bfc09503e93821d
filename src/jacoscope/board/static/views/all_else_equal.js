/**
 * Whether the loss moved as each layer's partial derivative had promised.
 *
 * @module views/all_else_equal
 */

import { lineChart } from "../chart.js";
import { button, h, replace } from "../dom.js";
import { emptyState } from "../empty.js";
import { number, step as stepText } from "../format.js";
import { allocationFigure } from "./_allocation.js";
import { layerTable, promiseScatter, weightTable } from "./_else_tables.js";
import { picture } from "./_picture.js";
import { lastReasons, probeNotes, reasonsFor } from "./_probe_words.js";
import { slots } from "./_slots.js";
import { placeOf, stepSlider } from "./_step_slider.js";
import { signed, takenApart } from "./_steps_apart.js";
import { decoded, placesWithin } from "./_values.js";
import { changes, keepingPlace, liveView, queryOf, viewHead } from "./_view.js";
import { waterfall } from "./_waterfall.js";

const LEAD =
  "A partial derivative is a promise: move this layer so, hold every other still, and the loss changes by g·Δθ. For steps that the optimiser really made, each layer was moved alone to see whether the promise was kept.";
const YAML = `monitor:                      # leave this line out in a file of the monitor's own
  quantities: [grad_norm, predicted_change, second_order_change, actual_change, interaction_change, allocated_change, allocation_gap]
  probes:
    schedule: {first: 1, every: 200}
    loss_samples: 64          # the loss is taken on so many of the batch
`;

export const all_else_equal_view = {
  id: "all_else_equal",
  title: "All else equal",
  needs: (run) => run.has.all_else_equal || "No step was probed for all else equal.",
  mount,
};

function mount(context) {
  const { api, state, theme, root, announce } = context;
  const set = (values) =>
    state.set(Object.fromEntries(Object.entries(values).map(([key, value]) => [`else_${key}`, value])));
  const empty = h("div");
  const slider = stepSlider({ label: "Probed step", name: "else-step", onChange: (step) => set({ step }) });
  const order = button("Largest first", () =>
    set({ order: state.get("else_order") === "size" ? null : "size" }),
  );
  const all = button("Show all layers", () => set({ all: state.get("else_all") ? null : "1" }));
  const said = h("p", { class: "v-sentence" });
  const numbers = h("dl", { class: "v-numbers v-row" });
  const [top, pair, tables, courses, notes] = [
    h("div"),
    h("div", { class: "figures" }),
    h("div"),
    h("div", { class: "figures v-slim" }),
    h("div"),
  ];
  const oneStep = h(
    "div",
    null,
    h("div", { class: "controls" }, slider.element, order, all),
    said,
    numbers,
    top,
    pair,
    tables,
    notes,
  );
  const over = h("h2", { class: "v-between" }, "Over the run");
  const page = h("div", { hidden: true }, viewHead("All else equal", LEAD), oneStep, over, courses);
  replace(root, empty, page);
  const painted = (name) => (place, spec) => picture(place, { name, theme, announce }, spec);
  const figures = slots(top, { waterfall: painted("all_else_equal") });
  const overRun = slots(courses, { allocation: painted("allocation"), promises: lineChart });
  const promises = promiseScatter(pair, { theme, announce });
  const weights = weightTable(pair, { onSort: (sort) => set({ weights_sort: sort }) });
  const layers = layerTable(tables, { onSort: (sort) => set({ sort }) });
  const hasNews = changes();
  return liveView(load, draw, () => [figures, overRun, promises].forEach((each) => each.destroy()));

  async function load(signal) {
    const run = context.focus();
    if (!run?.has.all_else_equal)
      return { run, isEmpty: true, reasons: run && (await lastReasons(api, run, true, signal)) };
    const query = queryOf(run);
    const [probes, allocation] = await Promise.all([
      api.getJson("data/probes", query, { signal }),
      api.getArrays("data/allocation", query, { signal }),
    ]);
    const steps = probes.steps
      .filter(({ before }) => before !== null && before !== undefined)
      .map(({ step }) => step);
    const wanted = state.getNumber("else_step");
    const step = steps.length ? steps[wanted === null ? steps.length - 1 : placeOf(steps, wanted)] : null;
    const probe = step === null ? null : await api.getJson("data/probe", { ...query, step }, { signal });
    return { run, probes, allocation, steps, step, probe };
  }

  function draw({ run, isEmpty = false, reasons, probes, allocation, steps, step, probe }) {
    const range = context.range();
    const asked = ["order", "all", "sort", "weights_sort"].map((key) => state.get(`else_${key}`));
    if (
      !hasNews(
        run?.run,
        run?.group,
        JSON.stringify(reasons ?? null),
        probes,
        allocation,
        probe,
        theme.isDark,
        ...asked,
        ...range,
      )
    )
      return;
    page.hidden = isEmpty;
    empty.hidden = !isEmpty;
    if (isEmpty) {
      replace(empty, nothing(run), probeNotes({}, reasons));
      return;
    }
    oneStep.hidden = !probe;
    if (probe) drawStep(probe, steps, step);
    const shares = allocationFigure(allocation, range, theme);
    overRun.put("allocation", shares);
    overRun.put("promises", steps.length > 1 ? promisesOverSteps(probes.steps, range) : null);
    over.hidden = !shares && steps.length < 2;
  }

  function drawStep(probe, steps, step) {
    slider.set(steps, step);
    const options = { bySize: state.get("else_order") === "size", all: state.get("else_all") !== null, theme };
    const apart = takenApart(probe.all_else_equal);
    order.setAttribute("aria-pressed", String(options.bySize));
    all.setAttribute("aria-pressed", String(options.all));
    all.hidden = apart.layers.length <= 24;
    said.textContent = apart.sentence;
    replace(numbers, totals(apart));
    const of = apart.prefix ? ` Names are those of layers of ${apart.prefix}.` : "";
    figures.put("waterfall", {
      ...waterfall(apart, options),
      title: `From the loss before step ${stepText(step)} to the loss after it`,
      note: `Each bar: how the loss changes if only this layer moves as it did in the step. Bars and what layers do together add up to the whole step.${of}`,
    });
    promises.set(apart);
    weights.set(probe.all_else_equal.weights, state.get("else_weights_sort"));
    layers.set(apart, state.get("else_sort"));
    keepingPlace(notes, () =>
      replace(notes, probeNotes(ownNotes(probe, apart), reasonsFor(probe.withheld, true))),
    );
  }

  function promisesOverSteps(records, range) {
    const steps = records.filter(({ before }) => before !== null && before !== undefined);
    const inside = placesWithin(
      steps.map(({ step }) => step),
      range,
    ).map((place) => steps[place]);
    const line = (label, color, dash, of) => ({
      label,
      color: theme.token(color),
      dash,
      x: Float64Array.from(inside, ({ step }) => step),
      value: Float64Array.from(inside, of),
    });
    return {
      title: "Promise and change of each probed step",
      note: "The whole step's. Where the change stays above the promise, steps are longer than the slope is good for.",
      name: "promised_and_actual",
      xLabel: "step",
      yLabel: "change of the loss",
      height: 230,
      onZoom: context.setRange,
      series: [
        line("actual change", "--series-1", [], (each) => decoded(each.actual)),
        line("promised by the derivative", "--series-2", [7, 4], (each) => decoded(each.predicted)),
        line(
          "with the second order",
          "--series-3",
          [2, 3],
          (each) => decoded(each.predicted) + decoded(each.second_order),
        ),
      ],
    };
  }
}

function totals({ before, after, actual, predicted, curved, interaction }) {
  const change = (value) => signed(value, number(value, 4));
  const all = [
    ["loss before → after", `${number(before, 5)} → ${number(after, 5)}`],
    ["actual change", change(actual)],
    ["promised by derivatives", change(predicted)],
    ["with the second order", change(curved)],
    ["interaction of layers", change(interaction)],
  ];
  return all.map(([name, text]) => h("div", null, h("dt", null, name), h("dd", null, text)));
}

function ownNotes({ notes }, { method, missing, rounding }) {
  return {
    ...Object.fromEntries(
      Object.entries(notes ?? {}).filter(([name]) => !["outputs", "structured", "input"].includes(name)),
    ),
    ...(method && !notes?.["second derivatives"] ? { "second derivatives": method } : {}),
    ...(missing ? { "no second order": missing } : {}),
    ...(rounding > 0 ? { rounding: `Changes below about ${number(rounding, 2)} are rounding.` } : {}),
  };
}

function nothing(run) {
  return emptyState({
    title: run ? `${run.label} has no step taken apart` : "No run is chosen",
    text: "This view takes single steps of the optimiser apart: what each layer's derivative promised, what the layer's move alone did to the loss, and what was left over. It also shows which layers lowered the loss over the run.",
    yaml: YAML,
  });
}

/**
 * How the network's outputs move with its inputs and with its weights.
 *
 * @module views/outputs
 */

import { lineChart } from "../chart.js";
import { h, labelled, replace, select } from "../dom.js";
import { emptyState } from "../empty.js";
import { courseSpec, kernelSpecs, singularCourse, singularSpec } from "./_output_curves.js";
import { saliencySpec, sensitivitySpec } from "./_output_specs.js";
import { picture } from "./_picture.js";
import { lastReasons, probeNotes, reasonsFor } from "./_probe_words.js";
import { slots } from "./_slots.js";
import { stepSlider } from "./_step_slider.js";
import { changes, keepingPlace, liveView, queryOf, viewHead } from "./_view.js";

const LEAD =
  "Here the labels have no say: what is differentiated is the network's output f, by its input x (what in the input moves it?) and by its weights θ (which layers can move it?).";
const TENSORS = ["saliency", "input_singular_values", "ntk_spectrum", "output_sensitivity"];
const CURVES = [
  "input_jacobian_norm",
  "input_jacobian_spectral_norm",
  "output_jacobian_norm",
  "ntk_trace",
  "ntk_effective_rank",
  "ntk_alignment",
  "ntk_drift",
  "ntk_condition",
];
const YAML = `monitor:                      # leave this line out in a file of the monitor's own
  quantities: [grad_norm, ntk_trace, ntk_alignment, output_jacobian_norm, input_jacobian_norm]
  probes:
    schedule: {first: 1, every: 200}
    saliency: 4               # samples in the saliency picture
`;

export const outputs_view = {
  id: "outputs",
  title: "Outputs",
  needs: (run) => hasAny(run) || "No probes of the outputs were made.",
  mount,
};

function mount(context) {
  const { api, state, theme, root, announce } = context;
  const empty = h("div");
  const slider = stepSlider({
    label: "Probed step",
    name: "outputs-step",
    onChange: (step) => state.set({ outputs_step: step }),
  });
  const choices = h("div", { class: "controls" });
  const [top, spectra, courses, notes] = [
    h("div"),
    h("div", { class: "figures" }),
    h("div", { class: "figures" }),
    h("div"),
  ];
  const coursesHead = h("h2", { class: "v-between" }, "Over the run");
  const page = h(
    "div",
    { hidden: true },
    viewHead("Outputs", LEAD),
    h("div", { class: "controls" }, slider.element),
    top,
    choices,
    spectra,
    coursesHead,
    courses,
    notes,
  );
  replace(root, empty, page);
  const painted = (name) => (place, spec) => picture(place, { name, theme, announce }, spec);
  const pictures = slots(top, {
    saliency: painted("input_saliency"),
    sensitivity: painted("sensitivity_by_layer"),
  });
  const figures = slots(spectra, {
    singular: lineChart,
    singularCourse: lineChart,
    kernel: lineChart,
    kernelCourse: lineChart,
  });
  const curves = slots(courses, Object.fromEntries(CURVES.map((name) => [name, lineChart])));
  const hasNews = changes();
  return liveView(load, draw, () => [pictures, figures, curves].forEach((each) => each.destroy()));

  async function load(signal) {
    const run = context.focus();
    if (!run || !hasAny(run))
      return { run, isEmpty: true, reasons: run && (await lastReasons(api, run, false, signal)) };
    const query = queryOf(run);
    const [from, to] = context.range();
    const get = (path, more) => api.getArrays(path, { ...query, ...more }, { signal });
    const names = CURVES.filter((name) => run.quantities.some((quantity) => quantity.name === name));
    const [outputs, kernel, singular, ...series] = await Promise.all([
      TENSORS.some((name) => run.has[name])
        ? get("data/outputs", { step: state.getNumber("outputs_step") })
        : null,
      run.has.ntk_spectrum ? get("data/spectra", { kind: "ntk" }) : null,
      run.has.input_singular_values ? get("data/spectra", { kind: "input" }) : null,
      ...names.map((quantity) => get("data/series", { quantity, from, to })),
    ]);
    return { run, outputs, kernel, singular, series };
  }

  function draw({ run, isEmpty = false, reasons, outputs, kernel, singular, series = [] }) {
    const range = context.range();
    const asked = [state.get("outputs_row"), state.get("outputs_sample"), ...range];
    if (
      !hasNews(
        run?.run,
        run?.group,
        JSON.stringify(reasons ?? null),
        outputs,
        kernel,
        singular,
        theme.isDark,
        ...series,
        ...asked,
      )
    )
      return;
    page.hidden = isEmpty;
    empty.hidden = !isEmpty;
    if (isEmpty) {
      replace(empty, nothing(run), probeNotes({}, reasons));
      return;
    }
    const { meta } = outputs ?? { meta: null };
    slider.set(meta?.steps ?? [], meta?.step ?? null);
    const row = chosen(kernel?.meta.rows, state.get("outputs_row"));
    const samples = singular?.meta.rows.map((name, i) => String(meta?.ids[i] ?? name)) ?? [];
    const sample = samples.includes(state.get("outputs_sample"))
      ? samples.indexOf(state.get("outputs_sample"))
      : null;
    drawChoices(kernel?.meta.rows ?? [], row, samples, sample);
    pictures.put("saliency", outputs && saliencySpec(outputs, theme));
    const [spectrum, course] = kernel ? kernelSpecs(kernel, row, meta.step, range, theme) : [null, null];
    pictures.put("sensitivity", outputs && sensitivitySpec(outputs, theme));
    figures.put("singular", outputs && singularSpec(outputs, theme));
    figures.put("singularCourse", singular && zooming(singularCourse(singular, sample, range, theme)));
    figures.put("kernel", spectrum);
    figures.put("kernelCourse", course && zooming(course));
    drawCurves(run, series);
    coursesHead.hidden = !series.length;
    keepingPlace(notes, () => replace(notes, meta && probeNotes(meta.notes, reasonsFor(meta.withheld, false))));
  }

  function drawCurves(run, series) {
    const found = new Map(series.map((reply) => [reply.meta.quantity, reply]));
    for (const name of CURVES) {
      const reading = run.quantities.find((quantity) => quantity.name === name)?.reading;
      const spec = found.has(name) ? courseSpec(found.get(name), reading, theme) : null;
      curves.put(name, spec && zooming(spec));
    }
  }

  function drawChoices(rows, row, samples, sample) {
    const option = (value) => ({ value, text: value });
    const every = { value: "", text: `all ${samples.length}` };
    const chooser = (label, key, all, value) =>
      labelled(
        label,
        select({
          choices: all,
          value,
          onChange: (next) => state.set({ [key]: next || null }),
          props: { "data-key": key },
        }),
      );
    keepingPlace(choices, () =>
      replace(
        choices,
        rows.length > 1 ? chooser("Tangent kernel of", "outputs_row", rows.map(option), row) : null,
        samples.length > 1
          ? chooser(
              "Singular values of sample",
              "outputs_sample",
              [every, ...samples.map(option)],
              sample === null ? "" : samples[sample],
            )
          : null,
      ),
    );
  }

  function zooming(spec) {
    return { ...spec, onZoom: context.setRange };
  }
}

function chosen(rows, wanted) {
  if (!rows?.length) return null;
  return rows.includes(wanted) ? wanted : rows.includes("(all)") ? "(all)" : rows[0];
}

function hasAny(run) {
  return TENSORS.some((name) => run.has[name]) || run.quantities.some(({ name }) => CURVES.includes(name));
}

function nothing(run) {
  return emptyState({
    title: run ? `${run.label} has no probes of its outputs` : "No run is chosen",
    text: "This view shows what in an input moves each output, and how many directions the outputs move in as weights change. Probes measure it on a few samples, every so many steps, on a copy of the model.",
    yaml: YAML,
  });
}

/**
 * Whether the samples of a batch ask for the same step.
 *
 * @module views/agreement
 */

import { lineChart } from "../chart.js";
import { button, h, replace } from "../dom.js";
import { emptyState } from "../empty.js";
import { matrix } from "../matrix.js";
import { agreementSummary } from "./_agreement_summary.js";
import { matrixSpec, numberAt, specsOverSteps, spectrumSpec, understood } from "./_agreement_specs.js";
import { pairSummary } from "./_gram.js";
import { placeOf, stepSlider } from "./_step_slider.js";
import { changes, liveView, queryOf, viewHead } from "./_view.js";

const LEAD =
  "Each sample of a batch has a gradient of its own. Where two of them point the same way (cosine near 1), a step that helps one helps the other; where they point apart (below 0), it hurts it.";
const YAML = `monitor:                      # leave this line out in a file of the monitor's own
  quantities: [grad_norm, sample_grad_norm, pair_cosine]
  samples: {gram_every: 10}     # write the Gram matrix of every tenth capture
`;

export const agreement_view = {
  id: "agreement",
  title: "Agreement",
  needs: (run) => run.has.gram || "No Gram matrix of per-sample gradients was written.",
  mount,
};

function mount(context) {
  const { api, state, theme, root } = context;
  const empty = h("div");
  const main = h("div", { class: "v-main" });
  const aside = h("div", { class: "v-aside" });
  const courses = h("div", { class: "figures v-thirds" });
  const slider = stepSlider({
    label: "Captured step",
    name: "agreement-step",
    onChange: (step) => state.set({ agreement_step: step }),
  });
  const modes = ["cosine", "gram"].map((mode) =>
    button(mode === "cosine" ? "Cosines" : "Gram matrix", () =>
      state.set({ agreement_matrix: mode === "cosine" ? null : mode }),
    ),
  );
  const page = h(
    "div",
    { hidden: true },
    viewHead("Agreement", LEAD),
    h(
      "div",
      { class: "controls" },
      slider.element,
      h("span", { class: "v-toggle", role: "group", "aria-label": "Matrix of" }, modes),
    ),
    h("div", { class: "v-columns has-matrix" }, main, aside),
    h("h2", { class: "v-between" }, "Over the run"),
    courses,
  );
  replace(root, empty, page);
  const summary = agreementSummary(aside);
  let charts = null;
  const hasNews = changes();

  return liveView(load, draw, () => charts?.forEach((chart) => chart.destroy()));

  async function load(signal) {
    const run = context.focus();
    if (!run?.has.gram) return { run, course: null };
    const course = await api.getArrays("data/agreement", queryOf(run), { signal });
    if (!course.meta.steps.length) return { run, course: null };
    const wanted = state.getNumber("agreement_step");
    const step =
      course.meta.steps[wanted === null ? course.meta.steps.length - 1 : placeOf(course.meta.steps, wanted)];
    return { run, course, step, gram: await api.getArrays("data/gram", { ...queryOf(run), step }, { signal }) };
  }

  function draw({ run, course, step, gram }) {
    const mode = state.get("agreement_matrix") === "gram" ? "gram" : "cosine";
    if (!hasNews(run?.run, run?.group, course, gram, mode, theme.isDark, ...context.range())) return;
    page.hidden = !course;
    empty.hidden = Boolean(course);
    if (!course) {
      replace(empty, nothing(run));
      return;
    }
    slider.set(course.meta.steps, step);
    modes.forEach((each, place) =>
      each.setAttribute("aria-pressed", String((mode === "gram") === (place === 1))),
    );
    const shown = understood(gram, mode);
    summary.set(pairSummary(shown.cosine, shown.n, shown.labels), {
      n: shown.n,
      rank: numberAt(course, "effective_rank", step),
      share: numberAt(course, "top_share", step),
    });
    const specs = [matrixSpec(shown), spectrumSpec(course, step, theme), ...courseSpecs(course, step)];
    charts ??= specs.map((spec, place) =>
      place === 0 ? matrix(main, spec) : lineChart(place === 1 ? aside : courses, spec),
    );
    charts.forEach((chart, place) => chart.set(specs[place]));
  }

  function courseSpecs(course, step) {
    const shared = {
      xLabel: "step",
      height: 200,
      onZoom: context.setRange,
      markers: [{ x: step, label: "shown above" }],
    };
    return specsOverSteps(course, context.range(), theme).map((spec) => ({ ...shared, ...spec }));
  }
}

function nothing(run) {
  return emptyState({
    title: run ? `${run.label} has no Gram matrix` : "No run is chosen",
    text: "This view shows, for a batch, the cosine of each two samples' gradients, and how many directions they pull in. It needs per-sample gradients and Gram matrices at some of the captured steps.",
    yaml: YAML,
  });
}

/**
 * A slider over recorded steps.
 *
 * @module views/_step_slider
 */

import { button, h } from "../dom.js";
import { step as stepText } from "../format.js";

/**
 * @param {object} options
 * @param {string} options.label What is chosen, such as "Probed step".
 * @param {string} options.name Of the control, unique in the page.
 * @param {(step: number|null) => void} options.onChange Called with the step chosen, or with `null`
 *   for the last one, which then is followed as training goes on.
 * @returns {{element: HTMLElement, set: (steps: number[], step: number|null) => number|null}} `set`
 *   returns the step shown: the nearest one recorded at or before the one asked for.
 */
export function stepSlider({ label, name, onChange }) {
  let steps = [];
  const input = h("input", {
    type: "range",
    id: name,
    min: 0,
    step: 1,
    class: "v-slider",
    on: { input: () => choose(Number(input.value)) },
  });
  const reading = h("output", { class: "v-slider-reading", for: name });
  const back = button("‹", () => choose(Number(input.value) - 1), {
    "aria-label": "Step before",
    class: "v-nudge",
  });
  const on = button("›", () => choose(Number(input.value) + 1), {
    "aria-label": "Step after",
    class: "v-nudge",
  });
  const latest = button("Latest", () => choose(steps.length - 1), {
    title: "Show the last step, and follow it while training goes on",
  });
  const element = h(
    "div",
    { class: "v-steps" },
    h("label", { class: "field-name", for: name }, label),
    back,
    input,
    on,
    reading,
    latest,
  );

  function choose(index) {
    const place = Math.max(0, Math.min(index, steps.length - 1));
    show(place);
    onChange(place === steps.length - 1 ? null : steps[place]);
  }

  function show(place) {
    input.value = String(place);
    const isLast = place === steps.length - 1;
    input.setAttribute("aria-valuetext", `step ${steps[place]}${isLast ? ", the latest" : ""}`);
    reading.textContent = `step ${stepText(steps[place])} · ${place + 1} of ${steps.length}`;
    // A button that has the focus must not be disabled under the reader's finger.
    for (const [node, off] of [
      [back, place === 0],
      [on, isLast],
      [latest, isLast],
    ]) {
      node.setAttribute("aria-disabled", String(off));
    }
  }

  return {
    element,
    set(recorded, wanted) {
      steps = recorded;
      element.hidden = steps.length === 0;
      if (steps.length === 0) return null;
      input.max = String(steps.length - 1);
      const place = wanted === null ? steps.length - 1 : placeOf(steps, wanted);
      show(place);
      return steps[place];
    },
  };
}

/** The place of the last step that is not after the one asked for, or of the first step. */
export function placeOf(steps, wanted) {
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= wanted) low = middle + 1;
    else high = middle;
  }
  return Math.max(0, low - 1);
}

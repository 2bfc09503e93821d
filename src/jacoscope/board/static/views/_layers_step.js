/**
 * The slider that chooses a step.
 *
 * @module views/_layers_step
 */

import { button, h } from "../dom.js";
import { step } from "../format.js";
import { markedColumn } from "../heat_signs.js";

/**
 * A slider over columns of steps.
 *
 * @param {(step: number|null) => void} onChange Gets a step, or null for the last one, whichever it is.
 * @returns {{node: HTMLElement, set: (columns: ArrayLike<number>, ends: ArrayLike<number>, step: number|null) => void}}
 */
export function stepSlider(onChange) {
  let columns = [];
  let ends = [];
  let waiting = 0;
  const slider = h("input", {
    type: "range",
    min: 0,
    step: 1,
    "aria-label": "Step",
    on: {
      input: () => {
        const place = Number(slider.value);
        tell(ends[place], true);
        clearTimeout(waiting);
        waiting = setTimeout(() => onChange(ends[place]), 120);
      },
    },
  });
  const text = h("output", { class: "step-now" });
  const last = button("Last", () => onChange(null), {
    class: "tool",
    "aria-label": "Go to the last step",
  });
  const node = h(
    "div",
    { class: "step-slider" },
    slider,
    h("span", { class: "step-text" }, text, last),
  );

  function tell(value, isChosen) {
    text.textContent = isChosen ? `Step ${step(value)}` : `Last step, ${step(value)}`;
    slider.setAttribute("aria-valuetext", text.textContent);
  }

  return {
    node,
    set(newColumns, newEnds, chosen) {
      columns = newColumns;
      ends = newEnds;
      node.hidden = columns.length === 0;
      if (node.hidden) return;
      slider.max = columns.length - 1;
      const place = chosen === null ? columns.length - 1 : markedColumn(columns, ends, chosen);
      slider.value = String(place);
      last.disabled = chosen === null;
      tell(chosen ?? ends[place], chosen !== null);
    },
  };
}

/**
 * The range of steps that all views keep to.
 *
 * @module steps
 */

import { button, h, labelled } from "./dom.js";
import { focus } from "./run_list.js";
import { state } from "./state.js";

/** The range of the link; null at an end that is open. */
export function range() {
  const [from, to] = [state.getStep("from"), state.getStep("to")];
  return from !== null && to !== null && from > to ? [to, from] : [from, to];
}

/**
 * Keep to these steps.
 *
 * @param {[number|null, number|null]} ends Null for an open end.
 */
export function setRange([from, to]) {
  const whole = (value) =>
    value === null || value === undefined ? null : String(Math.round(value));
  state.set({ from: whole(from), to: whole(to) });
}

/**
 * Two fields and a button, at the end of `container`.
 *
 * @returns {{update: () => void}}
 */
export function stepRange(container) {
  const field = (name, text) =>
    h("input", {
      type: "number",
      step: 1,
      min: 0,
      placeholder: text,
      on: { change: () => take() },
      "aria-label": name,
    });
  const from = field("From step", "first");
  const to = field("To step", "last");
  const all = button("All", () => setRange([null, null]), { "aria-label": "Show all steps" });
  const read = (node) =>
    node.value.trim() === "" || Number.isNaN(node.valueAsNumber) ? null : node.valueAsNumber;
  const take = () => {
    const [low, high] = [read(from), read(to)];
    setRange(low !== null && high !== null && low > high ? [high, low] : [low, high]);
  };
  container.append(
    h(
      "fieldset",
      null,
      h("legend", { class: "unseen" }, "Range of steps"),
      labelled("Steps", from),
      h("span", { "aria-hidden": "true" }, "–"),
      to,
      all,
    ),
  );
  return {
    update() {
      const [low, high] = range();
      show(from, low);
      show(to, high);
      const last = focus()?.last_step;
      to.placeholder = last === undefined || last === null ? "last" : String(last);
      all.disabled = low === null && high === null;
    },
  };
}

/** What is being typed is left alone. */
function show(node, value) {
  const text = value === null ? "" : String(value);
  if (node !== document.activeElement && node.value !== text) node.value = text;
  if (
    node === document.activeElement &&
    value === null &&
    node.value !== "" &&
    !node.matches(":focus-visible")
  )
    node.value = "";
}

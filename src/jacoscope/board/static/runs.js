/**
 * The side bar: which runs are shown, and which one is in focus.
 *
 * @module runs
 */

import { breakable, button, h, replace } from "./dom.js";
import { step } from "./format.js";
import { swatch } from "./glyphs.js";
import { focus, labelOf, runs, select, selected, setFocus, unknownIds } from "./run_list.js";
import { state } from "./state.js";

const FILTER_FROM = 7;
const NARROW = "narrow";

/**
 * The side bar, at the end of `container`.
 *
 * @returns {{update: () => void}}
 */
export function sideBar(container) {
  const list = h("ul", { class: "runs" });
  const filter = h("input", {
    type: "search",
    "aria-label": "Filter runs by text or regular expression",
    placeholder: "Filter runs",
    value: state.get("run_filter") ?? "",
    on: { input: () => state.set({ run_filter: filter.value || null }) },
  });
  const filterBox = h("div", { class: "run-filter" }, filter);
  const note = h("p", { class: "note", role: "status" });
  const fold = button("", () => state.set({ side: isNarrow() ? null : NARROW }), { class: "icon" });
  const body = h("div", { class: "side-body", id: "runs" }, filterBox, note, list);
  fold.setAttribute("aria-controls", "runs");
  const side = h(
    "aside",
    { class: "side", "aria-label": "Runs" },
    h("div", { class: "side-head" }, h("h2", null, "Runs"), fold),
    body,
  );
  container.append(side);
  let drawn = "";

  return {
    update() {
      const narrow = isNarrow();
      side.classList.toggle("narrow", narrow);
      fold.textContent = narrow ? "»" : "«";
      fold.setAttribute("aria-label", narrow ? "Show runs" : "Hide runs");
      fold.setAttribute("aria-expanded", String(!narrow));
      const all = runs();
      filterBox.hidden = all.length < FILTER_FROM;
      const { accept, problem } = filterOf(filterBox.hidden ? null : state.get("run_filter"));
      const shown = all.filter((run) => accept(run.label));
      const hidden = all.length - shown.length;
      note.textContent =
        problem ?? (hidden > 0 ? `${shown.length} of ${all.length} runs match` : "");
      note.hidden = note.textContent === "";
      const chosen = selected().map((run) => run.id);
      const inFocus = focus()?.id ?? null;
      // Rebuilt only where something differs, so that the keyboard's focus stays.
      const key = JSON.stringify([
        shown.map((run) => [run.id, run.label, run.color, run.last_step, run.isLive, run.problem]),
        chosen,
        inFocus,
        unknownIds(),
      ]);
      if (key === drawn) return;
      drawn = key;
      const active = document.activeElement?.dataset?.key ?? null;
      replace(
        list,
        shown.map((run) => item(run, chosen, inFocus)),
        unknownIds().map(goneItem),
      );
      if (active !== null) {
        [...list.querySelectorAll("[data-key]")]
          .find((node) => node.dataset.key === active)
          ?.focus();
      }
    },
  };
}

function isNarrow() {
  return state.get("side") === NARROW;
}

function item(run, chosen, inFocus) {
  const isChosen = chosen.includes(run.id);
  const isFocused = run.id === inFocus && chosen.length > 1;
  const box = h("input", {
    type: "checkbox",
    checked: isChosen,
    "aria-label": `Show run ${run.label}`,
    "data-key": `show ${run.id}`,
    on: {
      change: () =>
        select(box.checked ? [...chosen, run.id] : chosen.filter((id) => id !== run.id)),
    },
  });
  const info = h(
    "div",
    { class: "run-info" },
    swatch(run),
    h("span", { class: "run-step" }, `step ${step(run.last_step)}`),
    run.isLive ? h("span", { class: "live" }, "● live") : null,
    chosen.length > 1 && isChosen
      ? button(isFocused ? "in focus" : "focus", () => setFocus(run.id), {
          class: "focus-button",
          "aria-pressed": String(isFocused),
          "aria-label": `Focus run ${run.label}`,
          "data-key": `focus ${run.id}`,
        })
      : null,
    run.problem ? h("span", { class: "problem" }, run.problem) : null,
  );
  return h(
    "li",
    { class: isFocused ? "run focused" : "run", "data-run": run.id },
    box,
    h("label", { class: "run-label", on: { click: () => box.click() } }, breakable(run.label)),
    info,
  );
}

/** A run of the link that is not there, with a way to be rid of it. */
function goneItem(id) {
  const label = labelOf(id);
  const forget = button("remove", () => {
    const wanted = state.getJson("runs", []);
    select(wanted.filter((other) => other !== id));
  });
  forget.setAttribute("aria-label", `Remove run ${label}`);
  forget.className = "focus-button";
  return h(
    "li",
    { class: "run" },
    h("span", { "aria-hidden": "true" }, "✕"),
    h("span", { class: "run-label" }, breakable(label)),
    h("div", { class: "run-info" }, h("span", { class: "problem" }, "not in this folder"), forget),
  );
}

function filterOf(text) {
  if (!text) return { accept: () => true, problem: null };
  try {
    const pattern = new RegExp(text, "i");
    return { accept: (label) => pattern.test(label), problem: null };
  } catch {
    const plain = text.toLowerCase();
    return {
      accept: (label) => label.toLowerCase().includes(plain),
      problem: "Not a regular expression; taken as text.",
    };
  }
}

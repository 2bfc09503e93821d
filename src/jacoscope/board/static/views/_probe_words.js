/**
 * What a probe noted and what it withheld, in lists.
 *
 * @module views/_probe_words
 */

import { h } from "../dom.js";
import { queryOf } from "./_view.js";

/** Whether a quantity is about a step's change of the loss, and not about outputs. */
export function isOfStep(name) {
  return /_change$|^allocation/.test(name);
}

/** Those reasons that concern all else equal, or those that concern outputs. */
export function reasonsFor(withheld, ofStep) {
  return Object.fromEntries(Object.entries(withheld ?? {}).filter(([name]) => isOfStep(name) === ofStep));
}

/**
 * Why the last probe of a run has nothing of a kind, where it was asked for.
 *
 * @returns {Promise<Object<string, string>>} Reasons by quantity.
 */
export async function lastReasons(api, run, ofStep, signal) {
  const { steps } = await api.getJson("data/probes", queryOf(run), { signal });
  return reasonsFor(steps.at(-1)?.withheld, ofStep);
}

/**
 * Notes on how a probe went, and reasons for what is not there.
 *
 * @param {Object<string, string>} notes By subject.
 * @param {Object<string, string>} withheld Reasons by quantity.
 * @returns {HTMLElement|null}
 */
export function probeNotes(notes, withheld) {
  const parts = [list("How it was done", notes), list("What is withheld, and why", withheld)].filter(Boolean);
  return parts.length
    ? h("section", { class: "figure v-notes", "aria-label": "Notes on the probe" }, parts)
    : null;
}

function list(title, texts) {
  const entries = Object.entries(texts ?? {});
  if (!entries.length) return null;
  return [
    h("h3", null, title),
    h(
      "dl",
      { class: "v-reasons" },
      entries.map(([name, text]) => h("div", null, h("dt", null, name), h("dd", null, String(text)))),
    ),
  ];
}

/**
 * What a link asks for that is not there.
 *
 * @module links
 */

import { state } from "./state.js";
import { VIEWS } from "./view_table.js";

const STEPS = ["from", "to", "step"];
const LISTS = ["runs", "rows"];

/**
 * Sentences on what of a link could not be followed.
 *
 * @returns {string[]}
 */
export function linkProblems() {
  const problems = [];
  const view = state.get("view");
  if (view !== null && !VIEWS.some((one) => one.id === view)) {
    problems.push(`The link names a view that there is not: “${view}”. This is the overview.`);
  }
  for (const key of STEPS) {
    if (state.get(key) !== null && state.getStep(key) === null) {
      problems.push(
        `The link has “${state.get(key)}” for ${key}, which is not a step; it is left out.`,
      );
    }
  }
  for (const key of LISTS) {
    if (state.get(key) !== null && !Array.isArray(state.getJson(key))) {
      problems.push(`The link's list of ${key} cannot be read; it is left out.`);
    }
  }
  return problems;
}

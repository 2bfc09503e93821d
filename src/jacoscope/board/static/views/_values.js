/**
 * Numbers as the server's JSON carries them, and steps within a range.
 *
 * @module views/_values
 */

import { number } from "../format.js";

/** A number as JSON carries it: null is not a number, infinities are texts. */
export function decoded(value) {
  if (typeof value === "number") return value;
  if (value === "inf") return Infinity;
  return value === "-inf" ? -Infinity : NaN;
}

/** A cosine or another share, to two places, as a column of them reads best. */
export function fixed(value) {
  if (!Number.isFinite(value)) return number(value);
  const text = value.toFixed(2);
  return text === "-0.00" ? "0.00" : text.replace("-", "−");
}

/** Places of the steps within a range whose ends may be open. */
export function placesWithin(steps, [from, to]) {
  return Array.from(steps.keys()).filter(
    (at) => (from === null || steps[at] >= from) && (to === null || steps[at] <= to),
  );
}

/** What an object from JSON itself has under a key: ids may be called as what every object inherits. */
export function own(object, key) {
  return object && Object.hasOwn(object, key) ? object[key] : undefined;
}

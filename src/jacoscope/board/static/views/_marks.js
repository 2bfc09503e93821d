/**
 * Marks that tell classes and layers apart by shape as well as by colour.
 *
 * @module views/_marks
 */

import { SHAPES } from "../glyphs.js";

const COLORS = 8;
// Seven shapes: as seven and eight have no common factor, 56 places in a row differ.
const MARKS = [...SHAPES, "cross"];

/** The colour of a place in a list, from the theme. */
export function colorOf(place, theme) {
  return theme.token(`--series-${(place % COLORS) + 1}`);
}

/** The colour and shape of a place in a list. */
export function markOf(place, theme) {
  return { color: colorOf(place, theme), shape: MARKS[place % MARKS.length] };
}

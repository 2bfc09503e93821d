/**
 * Ranks samples by any of their columns. It is done here and not by the server's boards, so that any
 * range of steps has its ranking.
 *
 * @module views/_ranking
 */

import { decoded } from "./_values.js";

const NUMERIC = [
  "loss",
  "mean_loss",
  "norm",
  "mean_norm",
  "alignment",
  "class_alignment",
  "mean_class_alignment",
  "last_layer_norm",
  "step",
  "epoch",
];

/**
 * The boards that a record may have. Titles and explanations are the record's own where it has them.
 * `direction` is "asc" where the smallest number comes first.
 */
const BOARDS = [
  {
    name: "largest_gradient",
    column: "norm",
    direction: "desc",
    title: "Samples with the largest gradients",
    explanation: "‖g_i‖, the norm of the sample's own gradient: how hard it pulls at the network.",
  },
  {
    name: "largest_mean_gradient",
    column: "mean_norm",
    direction: "desc",
    title: "Samples whose gradients stay the largest",
    explanation: "The running mean of ‖g_i‖ over epochs: what keeps pulling hard at the network.",
  },
  {
    name: "largest_mean_loss",
    column: "mean_loss",
    direction: "desc",
    title: "Samples whose losses stay the largest",
    explanation:
      "The running mean of the sample's loss over epochs: what training does not come to terms with.",
  },
  {
    name: "worst_alignment",
    column: "alignment",
    direction: "asc",
    title: "Samples whose gradients point against their batch",
    explanation:
      "cos(g_i, G): below zero, a small step down the batch's gradient raises the sample's own loss.",
  },
  {
    name: "worst_class_alignment",
    column: "class_alignment",
    direction: "asc",
    title: "Samples whose gradients point against their class",
    explanation: "The mean cosine of the sample's gradient with those of the others of its class in the batch.",
  },
  {
    name: "worst_mean_class_alignment",
    column: "mean_class_alignment",
    direction: "asc",
    title: "Samples whose gradients keep pointing against their class",
    explanation: "The running mean over epochs of the alignment with the class: steadier than one epoch's.",
  },
];

/** The columns of a reply, numbers as doubles; ids and labels as they are. */
export function decodedColumns(columns) {
  const result = { ...columns };
  for (const name of NUMERIC) {
    if (columns[name]) result[name] = Float64Array.from(columns[name], decoded);
  }
  return result;
}

/** The boards whose column has any number, with the record's words. */
export function boardsOf(columns, written) {
  const words = new Map((written ?? []).map((board) => [board.name, board]));
  return BOARDS.filter(({ column }) => columns[column]?.some((value) => !Number.isNaN(value))).map((board) => ({
    ...board,
    ...pick(words.get(board.name), ["title", "explanation"]),
  }));
}

/** The board that a key of the state names: a board, or `column:NAME:asc` for a column by itself. */
export function boardNamed(key, boards, titles) {
  const found = boards.find((board) => board.name === key);
  if (found) return found;
  const [head, column, direction] = (key ?? "").split(":");
  if (head === "column" && Object.hasOwn(titles, column) && ["asc", "desc"].includes(direction)) {
    const order = direction === "asc" ? "smallest first" : "largest first";
    return { name: key, column, direction, title: `By ${titles[column]}, ${order}`, explanation: "" };
  }
  return (
    boards[0] ?? { name: "column:id:asc", column: "id", direction: "asc", title: "By id", explanation: "" }
  );
}

/** Indices of the samples in a board's order: not a number comes last, ties are broken by id. */
export function ranked(columns, { column, direction }, indices) {
  const sign = direction === "asc" ? 1 : -1;
  const ids = columns.id;
  const values = columns[column];
  if (column === "id" || column === "label") {
    return indices.sort((a, b) => sign * compareIds(values[a], values[b]) || compareIds(ids[a], ids[b]));
  }
  return indices.sort((a, b) => compareNumbers(values[a], values[b], sign) || compareIds(ids[a], ids[b]));
}

/** What stands for a class in the address and in a select; samples may have none. */
export function classKey(label) {
  return label === null || label === undefined ? "none" : `class:${label}`;
}

/**
 * Indices of the samples that a filter lets through.
 *
 * @param {object} columns
 * @param {{wanted: string|null, text: string|null}} filter `wanted`: a class by its key; `text`: what
 *   an id must contain.
 */
export function filtered(columns, { wanted, text }) {
  const sought = (text ?? "").trim().toLowerCase();
  const indices = [];
  for (let index = 0; index < columns.id.length; index++) {
    if (wanted && classKey(columns.label[index]) !== wanted) continue;
    if (sought && !String(columns.id[index]).toLowerCase().includes(sought)) continue;
    indices.push(index);
  }
  return indices;
}

/** Classes with their counts, in order; samples without a class are counted under null. */
export function classCounts(labels) {
  const counts = new Map();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts].sort(([a], [b]) => compareIds(a, b));
}

/** Numbers by size, then texts by letter, then what is missing. */
export function compareIds(a, b) {
  const rank = (value) => (typeof value === "number" ? 0 : value === null ? 2 : 1);
  if (rank(a) !== rank(b)) return rank(a) - rank(b);
  return a < b ? -1 : a > b ? 1 : 0;
}

function compareNumbers(a, b, sign) {
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
  return a === b ? 0 : sign * (a < b ? -1 : 1);
}

function pick(object, names) {
  return Object.fromEntries(names.filter((name) => object?.[name]).map((name) => [name, object[name]]));
}

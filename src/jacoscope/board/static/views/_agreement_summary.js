/**
 * What a batch's cosines come to, in numbers.
 *
 * @module views/_agreement_summary
 */

import { css, level } from "../colors.js";
import { h } from "../dom.js";
import { frame } from "../export.js";
import { csv, number, percent } from "../format.js";
import { isBright } from "./_pixels.js";
import { fixed } from "./_values.js";

const SCALE = { colors: "diverging", log: false, low: -1, high: 1 };

/**
 * Means over pairs, and by pairs of classes.
 *
 * @param {HTMLElement} container
 * @returns {{set: (summary: object, spectrum: {rank: number, share: number, n: number}) => void}}
 */
export function agreementSummary(container) {
  let shown = null;
  const { body, setTitle, node } = frame(container, {
    title: "Pairs of samples",
    note: " ",
    name: "agreement_by_class",
    csv: () => tableCsv(shown),
  });
  return {
    set(summary, spectrum) {
      shown = summary;
      node.hidden = false;
      setTitle("Pairs of samples", note(summary));
      body.replaceChildren(h("dl", { class: "v-numbers" }, numbers(summary, spectrum)));
      if (summary.classes.length > 1) body.append(classTable(summary));
    },
  };
}

function numbers(summary, { rank, share, n }) {
  const all = [
    ["mean cosine", number(summary.all), "Over all pairs of different samples."],
    [
      "within classes",
      number(summary.within),
      "Mean cosine of pairs of the same class: whether one member teaches the others.",
    ],
    [
      "between classes",
      number(summary.between),
      "Mean cosine of pairs of two classes; below 0 classes compete.",
    ],
    [
      "pairs in conflict",
      percent(summary.negative),
      "Share of pairs with a negative cosine: what helps one hurts the other.",
    ],
    ["effective rank", `${number(rank)} of ${number(n)}`, "How many directions the samples pull in."],
    ["top direction", percent(share), "Share of the first eigenvalue in the sum of all."],
  ];
  const known = all.filter(([, text]) => text !== "—");
  return known.map(([name, text, reading]) =>
    h("div", { title: reading }, h("dt", null, name), h("dd", null, text)),
  );
}

function classTable({ classes, table }) {
  const c = classes.length;
  const cell = (value) => {
    if (Number.isNaN(value)) return h("td", { class: "num" }, "—");
    const at = level(SCALE, value);
    const style = { background: css(SCALE.colors, at), color: isBright(SCALE.colors, at) ? "#000" : "#fff" };
    return h("td", { class: "num", style }, fixed(value));
  };
  return h(
    "div",
    { class: "table-scroll" },
    h(
      "table",
      { class: "v-class-table" },
      h("caption", null, "Mean cosine, class by class"),
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          h("th", { scope: "col" }, h("span", { class: "unseen" }, "class")),
          classes.map((label) => h("th", { scope: "col" }, String(label))),
        ),
      ),
      h(
        "tbody",
        null,
        classes.map((label, a) =>
          h(
            "tr",
            null,
            h("th", { scope: "row" }, String(label)),
            classes.map((_, b) => cell(table[a * c + b])),
          ),
        ),
      ),
    ),
  );
}

function note({ within, between, classes }) {
  if (classes.length === 0) return "Classes are not known here.";
  if (Number.isNaN(within) || Number.isNaN(between)) return "";
  if (within <= between) return "Members of a class agree no more than samples of different classes do.";
  return between < 0
    ? "Members of a class pull together, different classes against each other."
    : "Members of a class agree more than samples of different classes do.";
}

function tableCsv({ classes, table }) {
  const c = classes.length;
  return csv([
    ["class", ...classes],
    ...classes.map((label, a) => [label, ...classes.map((_, b) => table[a * c + b])]),
  ]);
}

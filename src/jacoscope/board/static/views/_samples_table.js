/**
 * The ranking of samples as a table with pages.
 *
 * @module views/_samples_table
 */

import { button, h, replace } from "../dom.js";
import { number, step as stepText } from "../format.js";
import { shareBar, signedBar } from "./_bars.js";
import { cut } from "./_names.js";
import { TITLES, pictureOf } from "./_samples_words.js";
import { own } from "./_values.js";
import { keepingPlace } from "./_view.js";

/** Numbers that stand together in one column: the sample's own, and its running mean below. */
const HEADS = [
  {
    columns: [
      ["id", "Sample"],
      ["label", "class"],
    ],
  },
  {
    columns: [
      ["loss", "Loss"],
      ["mean_loss", "mean"],
    ],
    number: true,
  },
  {
    columns: [
      ["norm", "Gradient norm"],
      ["mean_norm", "mean"],
    ],
    number: true,
  },
  {
    columns: [["alignment", "With its batch"]],
    title: "Cosine of the sample's gradient with the batch's: 1 the same way, below 0 against it",
  },
  {
    of: "class",
    columns: [
      ["class_alignment", "With its class"],
      ["mean_class_alignment", "mean"],
    ],
    title: "Mean cosine with the gradients of the others of its class in the batch",
  },
];

/** What is small is what stands out. */
const FIRST_ASCENDING = new Set(["id", "label", "alignment", "class_alignment", "mean_class_alignment"]);

/**
 * @param {object} options
 * @param {(column: string, direction: "asc"|"desc") => void} options.onSort
 * @param {(index: number) => void} options.onPick A sample's row was chosen.
 * @param {(page: number) => void} options.onPage
 * @returns {{element: HTMLElement, set: (spec: object) => void}} `set` takes `columns`, `order` (all
 *   rows), `page`, `size`, `board`, `selected` (an index), `images`, `texts`, `pushes`, `colorOf`, `shortOf`.
 */
export function samplesTable({ onSort, onPick, onPage }) {
  const head = h("thead");
  const rows = h("tbody");
  const scroller = h(
    "div",
    { class: "table-scroll" },
    h(
      "table",
      { class: "grid v-samples" },
      h("caption", { class: "unseen" }, "Samples in the order of the ranking"),
      head,
      rows,
    ),
  );
  const pager = h("nav", { class: "v-pager", "aria-label": "Pages of the table" });
  const element = h("div", null, scroller, pager);

  function set(spec) {
    const things = hasThings(spec);
    const hasClasses = hasNumbers(spec.columns.class_alignment);
    const first = spec.page * spec.size;
    const shown = spec.order.slice(first, first + spec.size);
    keepingPlace(scroller, () => {
      replace(head, headRow(spec, things, hasClasses, onSort));
      replace(
        rows,
        shown.map((index, place) => row(spec, index, first + place + 1, { things, hasClasses, onPick })),
      );
      if (!shown.length) replace(rows, h("tr", null, h("td", { colspan: 9 }, "No sample passes the filters.")));
    });
    keepingPlace(pager, () => replace(pager, pages(spec, first, shown.length, onPage)));
  }

  return { element, set };
}

function headRow(spec, things, hasClasses, onSort) {
  const { column, direction } = spec.board;
  const sortable = ([name, text], isSecond) => {
    const isBy = name === column;
    const next = isBy ? flipped(direction) : FIRST_ASCENDING.has(name) ? "asc" : "desc";
    const arrow = isBy ? (direction === "asc" ? " ▲" : " ▼") : "";
    return button(text + arrow, () => onSort(name, next), {
      class: `v-sort${isSecond ? " v-second" : ""}`,
      "aria-label": `Sort by ${TITLES[name]}, ${next === "asc" ? "smallest" : "largest"} first`,
      "data-key": `sort:${name}`,
    });
  };
  const sorted = (names) =>
    names.includes(column) ? (direction === "asc" ? "ascending" : "descending") : "none";
  return h(
    "tr",
    null,
    h("th", { scope: "col", class: "num", "aria-label": "Rank" }, "#"),
    things ? h("th", { scope: "col" }, things === "image" ? "Picture" : "Text") : null,
    HEADS.filter((each) => hasClasses || each.of !== "class").map((each) =>
      h(
        "th",
        {
          scope: "col",
          title: each.title,
          class: each.number ? "num" : null,
          "aria-sort": sorted(each.columns.map(([name]) => name)),
        },
        each.columns
          .filter(([name]) => name !== "label" || hasLabels(spec.columns))
          .map((pair, place) => sortable(pair, place > 0)),
      ),
    ),
    hasPushes(spec)
      ? h("th", { scope: "col", title: "Shares of the sample's squared gradient norm, by layer" }, "Pushes")
      : null,
    h("th", { scope: "col", class: "num", "aria-sort": sorted(["step"]) }, sortable(["step", "Step"], false)),
  );
}

function row(spec, index, rank, { things, hasClasses, onPick }) {
  const { columns } = spec;
  const id = String(columns.id[index]);
  const isSelected = index === spec.selected;
  const open = button(cut(id, 20), null, {
    class: "link",
    "data-key": `row:${id}`,
    "aria-label": `Sample ${id}: show details`,
    "aria-current": isSelected ? "true" : null,
  });
  const label = columns.label[index];
  const pushes = own(spec.pushes, id);
  return h(
    "tr",
    // The button's click comes through here too.
    { class: isSelected ? "is-selected" : null, "data-id": id, on: { click: () => onPick(index) } },
    h("td", { class: "num" }, number(rank)),
    things ? h("td", { class: "v-thing" }, thing(spec, id, things)) : null,
    h(
      "th",
      { scope: "row", title: id },
      open,
      label === null ? null : second(`class ${cut(String(label), 20)}`),
    ),
    h("td", { class: "num" }, number(columns.loss[index]), mean(columns.mean_loss[index])),
    h("td", { class: "num" }, number(columns.norm[index]), mean(columns.mean_norm[index])),
    h("td", null, signedBar(columns.alignment[index])),
    hasClasses
      ? h("td", null, signedBar(columns.class_alignment[index]), mean(columns.mean_class_alignment[index]))
      : null,
    hasPushes(spec)
      ? h("td", null, pushes?.length ? shareBar(pushes, spec.colorOf, spec.shortOf) : second("not kept"))
      : null,
    h("td", { class: "num" }, stepText(columns.step[index])),
  );
}

function thing(spec, id, things) {
  const image = pictureOf(spec.images, id);
  if (image) return h("img", { src: image, alt: `Sample ${id}`, class: "v-thumb" });
  const text = own(spec.texts, id);
  if (text) return h("span", { class: "v-excerpt", title: text.slice(0, 500) }, cut(text, 72));
  return h(
    "span",
    { class: things === "image" ? "v-thumb v-no-thumb" : "v-second", title: "Kept of samples on a board only" },
    "–",
  );
}

function pages({ order, page, size }, first, shown, onPage) {
  const last = Math.max(0, Math.ceil(order.length / size) - 1);
  const to = (text, target, label) =>
    button(text, () => target >= 0 && target <= last && onPage(target), {
      "aria-label": label,
      "aria-disabled": String(target < 0 || target > last),
      "data-key": `page:${label}`,
    });
  return [
    to("‹ Previous", page - 1, "Previous page"),
    h(
      "span",
      { class: "note" },
      shown ? `${number(first + 1)}–${number(first + shown)} of ${number(order.length)}` : "none",
    ),
    to("Next ›", page + 1, "Next page"),
  ];
}

function hasThings({ images, texts }) {
  if (Object.keys(images).length) return "image";
  return Object.keys(texts).length ? "text" : null;
}

function hasNumbers(column) {
  return column?.some((value) => !Number.isNaN(value)) ?? false;
}

function hasLabels({ label }) {
  return label.some((each) => each !== null);
}

function hasPushes({ pushes }) {
  return Object.keys(pushes).length > 0;
}

function mean(value) {
  return Number.isNaN(value) ? null : second(`mean ${number(value)}`);
}

function second(text) {
  return h("span", { class: "v-second" }, text);
}

function flipped(direction) {
  return direction === "asc" ? "desc" : "asc";
}

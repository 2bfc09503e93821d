/**
 * A table whose heads sort it.
 *
 * @module views/_sorted_table
 */

import { button, h, replace } from "../dom.js";
import { keepingPlace } from "./_view.js";

/**
 * @typedef {object} Column
 * @property {string} key What of a row is shown and sorted by.
 * @property {string} title
 * @property {boolean} [isText]
 * @property {(value: *, row: object) => string|Node} show
 * @property {string} [hint]
 */

/**
 * @param {HTMLElement} container
 * @param {{caption: string, columns: Column[], onSort: (sort: string|null) => void}} options `onSort` gets
 *   what `set` takes: a column and a direction as "KEY:asc", or `null` for the rows' own order.
 * @returns {{set: (rows: object[], sort: string|null) => void}}
 */
export function sortedTable(container, { caption, columns, onSort }) {
  const head = h("thead");
  const body = h("tbody");
  const scroller = h(
    "div",
    { class: "table-scroll v-tall" },
    h("table", { class: "grid" }, h("caption", { class: "unseen" }, caption), head, body),
  );
  container.append(scroller);

  function set(rows, sort) {
    const [key, direction] = (sort ?? "").split(":");
    const chosen = columns.find((column) => column.key === key);
    const order = chosen ? sorted(rows, chosen, direction) : rows;
    keepingPlace(scroller, () => {
      replace(
        head,
        h(
          "tr",
          null,
          columns.map((column) => headCell(column, column === chosen ? direction : null)),
        ),
      );
      replace(
        body,
        order.map((row) =>
          h(
            "tr",
            null,
            columns.map((column, place) => cell(column, row, place)),
          ),
        ),
      );
    });
  }

  function headCell(column, direction) {
    const first = column.isText ? "asc" : "desc";
    const second = column.isText ? "desc" : "asc";
    // A third press gives the rows' own order back.
    const after = direction === null ? first : direction === first ? second : null;
    const arrow = { asc: " ▲", desc: " ▼" }[direction] ?? "";
    const act = button(column.title + arrow, () => onSort(after && `${column.key}:${after}`), {
      class: "v-sort",
      "data-key": `sort:${column.key}`,
      title: column.hint,
    });
    const state = { asc: "ascending", desc: "descending" }[direction] ?? "none";
    return h("th", { scope: "col", class: column.isText ? null : "num", "aria-sort": state }, act);
  }

  return { set };
}

function cell(column, row, place) {
  const tag = place === 0 ? "th" : "td";
  const props = { class: column.isText ? null : "num", scope: place === 0 ? "row" : null };
  return h(tag, props, column.show(row[column.key], row));
}

function sorted(rows, { key, isText }, direction) {
  const sign = direction === "asc" ? 1 : -1;
  const isMissing = (value) => !isText && Number.isNaN(value);
  return [...rows].sort((a, b) => {
    if (isMissing(a[key]) || isMissing(b[key])) return isMissing(a[key]) - isMissing(b[key]);
    return isText ? sign * String(a[key]).localeCompare(String(b[key])) : sign * (a[key] - b[key]);
  });
}

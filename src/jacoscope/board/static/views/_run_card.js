/**
 * The card of a run in the overview.
 *
 * @module views/_run_card
 */

import { h } from "../dom.js";
import { count, number, step } from "../format.js";
import { swatch } from "../glyphs.js";
import { findingList } from "./_findings.js";
import { tiles } from "./_tiles.js";

/**
 * The card's parts for one state of the data.
 *
 * @param {object} run The run, with `label`, `color`, `dash`.
 * @param {{meta: object, arrays: object}} reply Of `/data/overview`.
 * @param {object} actions `open(finding)` and `chart(name)`.
 * @param {string|null} charted The headline whose chart is open.
 */
export function runCard(run, reply, actions, charted) {
  const { card, findings } = reply.meta;
  return [
    heading(run, card),
    findingList(findings, actions.open),
    tiles(run, reply, actions.chart, charted),
  ];
}

/** What is told under the numbers. */
export function runDetails({ meta }) {
  return [missingTable(meta.missing), leftOut(meta.card.left_out), versions(meta.card.versions)];
}

function heading(run, card) {
  const steps = [
    `${count(card.captured, "captured step")}`,
    card.first_step === null ? null : `steps ${step(card.first_step)} – ${step(card.last_step)}`,
    card.epochs ? count(card.epochs, "epoch") : null,
    card.probed > 0 ? count(card.probed, "probe") : null,
    `${count(card.scalars, "weight")} in ${count(card.parameters, "parameter tensor")} of ${count(card.layers, "layer")}`,
    count(card.quantities, "quantity", "quantities"),
  ];
  return [
    h("h3", { class: "card-title" }, swatch(run), h("span", null, run.label)),
    h("p", { class: "note" }, steps.filter(Boolean).join(" · ")),
    run.problem ? h("p", { class: "problem" }, run.problem) : null,
  ];
}

function missingTable(missing) {
  if (missing.length === 0) {
    return h("p", { class: "note part" }, "Nothing is missing of what was asked for.");
  }
  const rows = missing.map((one) => {
    const more =
      one.count > one.rows.length ? ` and ${number(one.count - one.rows.length)} more` : "";
    return [
      h("code", null, one.quantity),
      one.reason,
      one.rows.join(", ") + more,
      step(one.since_step),
    ];
  });
  return folded(
    "missing",
    `What is missing and why (${number(missing.length)})`,
    ["Quantity", "Reason", "Where", "Since step"],
    rows,
  );
}

function leftOut(left) {
  if (!left || left.length === 0) return null;
  const rows = left.map((one) => [h("code", null, one.parameter), one.layer, one.reason]);
  return folded(
    "left-out",
    `Parameters that are not watched (${number(left.length)})`,
    ["Parameter", "Layer", "Reason"],
    rows,
  );
}

/** A table that opens on demand. */
function folded(key, title, head, rows) {
  const table = h(
    "table",
    { class: "grid", "aria-label": title },
    h(
      "thead",
      null,
      h(
        "tr",
        null,
        head.map((text) => h("th", { scope: "col" }, text)),
      ),
    ),
    h(
      "tbody",
      null,
      rows.map((row) =>
        h(
          "tr",
          null,
          row.map((cell) => h("td", null, cell)),
        ),
      ),
    ),
  );
  return h(
    "details",
    { class: "part", "data-key": key },
    h("summary", null, title),
    h("div", { class: "table-scroll" }, table),
  );
}

function versions(all) {
  const names = Object.keys(all ?? {});
  if (names.length === 0) return null;
  return h(
    "details",
    { class: "part", "data-key": "versions" },
    h("summary", null, "Versions"),
    h("p", { class: "note" }, names.map((name) => `${name} ${all[name]}`).join(" · ")),
  );
}

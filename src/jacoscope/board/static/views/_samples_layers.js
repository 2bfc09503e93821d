/**
 * The samples that pull hardest at a single layer.
 *
 * @module views/_samples_layers
 */

import { h, labelled, replace, select } from "../dom.js";
import { frame } from "../export.js";
import { csv, number, step as stepText } from "../format.js";
import { signedBar } from "./_bars.js";
import { decoded } from "./_values.js";

const NOTE = "‖g_i‖ over this layer alone, largest first, in the last epoch of the range.";

/**
 * @param {object} options
 * @param {(layer: string) => void} options.onLayer
 * @param {(id: string) => void} options.onPick
 * @returns {{element: HTMLElement, set: (boards: object[], layer: string|null) => void}}
 */
export function layerBoards({ onLayer, onPick }) {
  const element = h("div");
  const { body, setTitle } = frame(element, {
    title: "Largest gradients in one layer",
    note: NOTE,
    name: "samples_by_layer",
    csv: () => rowsAsCsv(boards),
  });
  const choice = h("div", { class: "controls" });
  const room = h("div", { class: "table-scroll" });
  let boards = [];
  let names = "";
  body.append(choice, room);

  function set(next, layer) {
    boards = next;
    element.hidden = boards.length === 0;
    if (!boards.length) return;
    const board = boards.find((each) => each.layer === layer) ?? boards.at(-1);
    const now = JSON.stringify([boards.map((each) => each.layer), board.layer]);
    // The select is left alone while it says what it should, as it may be open.
    if (now !== names) {
      const choices = boards.map((each) => ({ value: each.layer, text: each.layer }));
      replace(
        choice,
        labelled(
          "Layer",
          select({ choices, value: board.layer, onChange: onLayer, props: { id: "samples-layer" } }),
        ),
      );
      names = now;
    }
    setTitle(`Largest gradients in ${board.layer}`, NOTE);
    replace(room, table(board, onPick));
  }

  return { element, set };
}

function table(board, onPick) {
  return h(
    "table",
    { class: "grid v-samples" },
    h("caption", { class: "unseen" }, `Samples with the largest gradients in ${board.layer}`),
    h(
      "thead",
      null,
      h(
        "tr",
        null,
        ["Rank", "Sample", "Class", "Gradient norm here", "Along its batch, here", "Step"].map((text) =>
          h("th", { scope: "col" }, text),
        ),
      ),
    ),
    h(
      "tbody",
      null,
      board.entries.map((entry, place) =>
        h(
          "tr",
          { on: { click: () => onPick(String(entry.id)) } },
          h("td", null, number(place + 1)),
          h("th", { scope: "row" }, h("button", { type: "button", class: "link" }, String(entry.id))),
          h("td", null, entry.label === null ? "—" : String(entry.label)),
          h("td", null, number(decoded(entry.norm))),
          h("td", null, signedBar(decoded(entry.alignment))),
          h("td", null, stepText(entry.step)),
        ),
      ),
    ),
  );
}

function rowsAsCsv(boards) {
  const rows = boards.flatMap((board) =>
    board.entries.map((entry, place) => [
      board.layer,
      place + 1,
      entry.id,
      entry.label,
      decoded(entry.norm),
      decoded(entry.alignment),
      entry.step,
    ]),
  );
  return csv([["layer", "rank", "id", "label", "norm", "alignment", "step"], ...rows]);
}

/**
 * What the ranking of samples is by, and which samples are in it.
 *
 * @module views/_samples_controls
 */

import { h, labelled, replace, select } from "../dom.js";
import { number } from "../format.js";
import { classKey } from "./_ranking.js";
import { changes, keepingPlace } from "./_view.js";

/** How many rows a page of the table may have. */
export const SIZES = [25, 50, 100];

/**
 * @param {(values: object) => void} set Takes up what was chosen, by `board`, `class`, `text`, `size`.
 * @returns {{element: HTMLElement, update: (shown: object) => void}} `update` takes the `boards`, the
 *   `classes` with their counts, how many `samples` there are, and what is chosen: `board`, `wanted`,
 *   `text`, `size`.
 */
export function samplesControls(set) {
  const search = h("input", {
    type: "search",
    id: "samples-text",
    placeholder: "part of an id",
    size: 14,
    on: { input: () => set({ text: search.value || null, page: null }) },
  });
  const selects = h("div", { class: "controls v-inline" });
  const element = h("div", { class: "controls" }, selects, labelled("Find id", search));
  const hasNews = changes();

  function update({ boards, classes, samples, board, wanted, text, size }) {
    // What is being typed is left alone.
    if (search !== document.activeElement) search.value = text ?? "";
    if (!hasNews(boards, board.name, wanted, size)) return;
    const sizes = SIZES.map((each) => ({ value: String(each), text: String(each) }));
    keepingPlace(selects, () =>
      replace(
        selects,
        chooser("Ranking", "board", boardChoices(boards, board), board.name),
        classes.length > 1 ? chooser("Class", "class", classChoices(classes, samples), wanted ?? "") : null,
        chooser("Rows", "size", sizes, String(size)),
      ),
    );
  }

  function chooser(label, key, choices, value) {
    const onChange = (chosen) => set({ [key]: chosen || null, page: null });
    return labelled(
      label,
      select({ choices, value, onChange, props: { id: `samples-${key}`, "data-key": key } }),
    );
  }

  return { element, update };
}

/** The boards, and a column by itself where that is what it is ranked by. */
function boardChoices(boards, board) {
  const all = boards.some(({ name }) => name === board.name) ? boards : [...boards, board];
  return all.map(({ name, title }) => ({ value: name, text: title }));
}

function classChoices(classes, samples) {
  const every = { value: "", text: `all classes (${number(samples)})` };
  const each = classes.map(([label, count]) => ({
    value: classKey(label),
    text: `${label === null ? "without a class" : `class ${label}`} (${number(count)})`,
  }));
  return [every, ...each];
}

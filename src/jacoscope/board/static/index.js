/**
 * Where TensorBoard enters: it imports this module into a page of its own and calls `render`.
 *
 * @module index
 */

import { startApp } from "./app.js";
import { h } from "./dom.js";

const SHEETS = ["vendor/uPlot/uPlot.css", "style.css", "views.css"];

/** Build the tab. */
export async function render() {
  document.title = "Sensitivity";
  document.documentElement.lang = "en";
  await Promise.all(SHEETS.map(loadSheet));
  await startApp(document.body);
}

/** Resolves when the sheet is there, or when it cannot be had: the tab works without it. */
function loadSheet(path) {
  return new Promise((resolve) => {
    const href = new URL(path, import.meta.url).href;
    document.head.append(
      h("link", { rel: "stylesheet", href, on: { load: resolve, error: resolve } }),
    );
  });
}

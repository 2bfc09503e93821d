/**
 * What stands where a run has nothing to show: why, and what to switch on.
 *
 * @module empty
 */

import { button, h } from "./dom.js";

/**
 * @param {object} options
 * @param {string} options.title What is not there.
 * @param {string} options.text Why, and what it would show.
 * @param {string} [options.yaml] What to put into the configuration.
 * @returns {HTMLElement}
 */
export function emptyState({ title, text, yaml }) {
  return h(
    "section",
    { class: "empty", role: "note", "aria-label": title },
    h("h3", null, title),
    h("p", null, text),
    yaml ? codeBlock(yaml) : null,
  );
}

/** A block of code with a button that copies it. */
function codeBlock(text) {
  const copy = button("Copy YAML", async () => {
    const done = await copyText(text);
    copy.textContent = done ? "Copied" : "Select the text and copy it";
    setTimeout(() => (copy.textContent = "Copy YAML"), 2500);
  });
  return h("div", { class: "code" }, h("pre", { tabindex: "0" }, h("code", null, text)), copy);
}

/**
 * Put text on the clipboard.
 *
 * @returns {Promise<boolean>} Whether that worked; browsers refuse it on pages without HTTPS.
 */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text) {
  const area = h("textarea", { class: "unseen", "aria-hidden": "true", value: text });
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

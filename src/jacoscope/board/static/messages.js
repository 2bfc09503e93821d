/**
 * What the page has to say besides its views: errors, notes, and news for screen readers.
 *
 * @module messages
 */

import { button, h, replace } from "./dom.js";

const TOAST_FOR = 4000;

/**
 * @param {HTMLElement} body Where transient messages stand.
 * @param {HTMLElement} main Above whose content banners stand.
 */
export function messages(body, main) {
  const live = h("div", { class: "unseen", role: "status", "aria-live": "polite" });
  const place = h("div", { class: "banners" });
  main.append(place);
  body.append(live);
  const errors = new Map();
  let shownNotes = "";
  let dismissed = "";
  let notes = [];

  function draw() {
    replace(
      place,
      [...errors].map(([source, text]) => banner("Error", text, "alert", () => forget(source))),
      notes.map((text) =>
        banner("Note", text, "status", () => {
          dismissed = shownNotes;
          notes = [];
          draw();
        }),
      ),
    );
  }

  function forget(source) {
    if (errors.delete(source)) draw();
  }

  return {
    /** Show an error until its source works again or it is closed. */
    error(error, source) {
      const text = error.name === "ApiError" ? error.message : `This view failed: ${error.message}`;
      if (error.name !== "ApiError") console.error(error);
      if (errors.get(source) === text) return;
      errors.set(source, text);
      draw();
    },
    clearError: forget,
    /** Show these sentences, until others come or they are closed. */
    notes(sentences) {
      const key = sentences.join("\n");
      if (key === shownNotes) return;
      shownNotes = key;
      notes = key === dismissed ? [] : sentences;
      draw();
    },
    announce(text) {
      live.textContent = text;
    },
    toast(text) {
      const node = h("div", { class: "toast", role: "status" }, text);
      body.append(node);
      setTimeout(() => node.remove(), TOAST_FOR);
    },
  };
}

function banner(word, text, role, close) {
  return h(
    "div",
    { class: `banner ${word.toLowerCase()}`, role },
    h("span", null, h("strong", null, `${word}: `), text),
    button("Close", close, { class: "tool", "aria-label": `Close ${word.toLowerCase()}` }),
  );
}

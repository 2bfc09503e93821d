/**
 * The tabs of the views.
 *
 * @module tabs
 */

import { h } from "./dom.js";
import { state } from "./state.js";
import { VIEWS } from "./view_table.js";

/** The view of the link, or the first one. */
export function currentView() {
  const asked = state.get("view");
  return VIEWS.find((view) => view.id === asked) ?? VIEWS[0];
}

/**
 * A tab list, at the end of `container`.
 *
 * @returns {{update: () => void, mark: (id: string, reason: string|null) => void}} `mark` notes on a
 *   tab why its view has nothing to show.
 */
export function tabList(container) {
  const tabs = new Map();
  const node = h("div", {
    class: "tabs",
    role: "tablist",
    "aria-label": "Views",
    on: { keydown: (event) => key(event) },
  });
  for (const view of VIEWS) {
    const tab = h(
      "button",
      {
        type: "button",
        role: "tab",
        class: "tab",
        id: `tab-${view.id}`,
        "aria-controls": "view",
        "data-text": view.title,
        on: { click: () => open(view.id) },
      },
      view.title,
    );
    tabs.set(view.id, tab);
    node.append(tab);
  }
  container.append(node);

  function key(event) {
    const ids = VIEWS.map((view) => view.id);
    const at = ids.indexOf(currentView().id);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: ids.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const id = ids[(next + ids.length) % ids.length];
    open(id);
    tabs.get(id).focus();
  }

  return {
    update() {
      const current = currentView().id;
      for (const [id, tab] of tabs) {
        tab.setAttribute("aria-selected", String(id === current));
        tab.tabIndex = id === current ? 0 : -1;
      }
    },
    mark(id, reason) {
      const tab = tabs.get(id);
      tab.classList.toggle("bare", reason !== null);
      if (reason === null) tab.removeAttribute("title");
      else tab.title = reason;
    },
  };
}

function open(id) {
  state.set({ view: id });
}

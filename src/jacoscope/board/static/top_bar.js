/**
 * The row above the views: tabs, range of steps, live data, link and help.
 *
 * @module top_bar
 */

import { button, h, replace } from "./dom.js";
import { copyText } from "./empty.js";
import { clock } from "./format.js";
import { state } from "./state.js";
import { stepRange } from "./steps.js";
import { currentView, tabList } from "./tabs.js";

const OFF = "off";

/**
 * The row, at the end of `container`.
 *
 * @returns {{update: () => void, looked: (isNew: boolean) => void, mark: (id: string, reason: string|null) => void}}
 */
export function topBar(container) {
  const node = h("header", { class: "top" });
  const bar = h("div", { class: "bar" });
  const tabs = tabList(node);
  const steps = stepRange(bar);
  const updated = h("span", { class: "updated" });
  const live = button("Live", () => state.set({ live: isLive() ? OFF : null }), {
    "aria-label": "Live updates",
  });
  const link = button("Copy link", async () => {
    const done = await copyText(state.link());
    link.textContent = done ? "Copied" : "Not allowed";
    setTimeout(() => (link.textContent = "Copy link"), 2000);
  });
  link.title = "Copy a link that restores this view";
  const help = button("Help", () => state.set({ help: state.get("help") === "on" ? null : "on" }), {
    "aria-controls": "help",
  });
  const helpText = h("div", { class: "help", id: "help", role: "note" });
  bar.append(live, updated, link, help);
  node.append(bar, helpText);
  container.append(node);

  return {
    update() {
      tabs.update();
      steps.update();
      const isOpen = state.get("help") === "on";
      const view = currentView();
      live.setAttribute("aria-pressed", String(isLive()));
      help.setAttribute("aria-expanded", String(isOpen));
      helpText.hidden = !isOpen;
      helpText.setAttribute("aria-label", `About ${view.title}`);
      replace(
        helpText,
        view.help.map((text) => h("p", null, text)),
      );
    },
    looked(isNew) {
      const now = clock(Date.now());
      if (isNew) updated.textContent = `updated ${now}`;
      updated.title = `Looked for new data at ${now}`;
    },
    mark: tabs.mark,
  };
}

function isLive() {
  return state.get("live") !== OFF;
}

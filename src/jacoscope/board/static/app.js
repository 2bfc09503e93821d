/**
 * The tab: its frame, the view that is open, and new data while a run is training.
 *
 * @module app
 */

import * as api from "./api.js";
import { h } from "./dom.js";
import { onHostReload } from "./host.js";
import { linkProblems } from "./links.js";
import { messages } from "./messages.js";
import { MountedView } from "./mounted_view.js";
import { NO_RUN } from "./no_run.js";
import { focus, refreshRuns, runs, selected } from "./run_list.js";
import { sideBar } from "./runs.js";
import { startState, state } from "./state.js";
import { range, setRange } from "./steps.js";
import { currentView } from "./tabs.js";
import { onTheme, startTheme, theme } from "./theme.js";
import { topBar } from "./top_bar.js";
import { VIEWS } from "./view_table.js";

const POLL = 5000;
const FRAME_KEYS = new Set(["run_filter", "side", "live", "help"]);

/**
 * Build the tab and keep it up to date.
 *
 * @param {HTMLElement} body
 */
export async function startApp(body) {
  startTheme();
  startState();
  await new App(body).start();
}

class App {
  constructor(body) {
    this.panel = h("div", { id: "view", role: "tabpanel", tabindex: "-1" });
    this.main = h("main", { class: "main" });
    const skip = h(
      "a",
      { class: "skip", href: "#view", on: { click: (event) => this.#skip(event) } },
      "Skip to the view",
    );
    const frame = h("div", { class: "app" });
    body.replaceChildren(skip, frame);
    this.side = sideBar(frame);
    this.top = topBar(frame);
    frame.append(this.main);
    this.messages = messages(body, this.main);
    this.main.append(this.panel);
    this.view = null;
    this.loaded = new Map();
    this.isWaiting = false;
    this.hasRuns = false;
  }

  async start() {
    state.subscribe((changed) => this.#changed(changed));
    onTheme(() => this.#refresh());
    onHostReload(() => this.#look());
    document.addEventListener("visibilitychange", () => this.#look());
    await this.#look();
    this.#preload();
    setInterval(() => {
      if (state.get("live") !== "off" && isSeen()) this.#look();
    }, POLL);
  }

  /** Ask for new data, and draw it where there is any. */
  async #look() {
    if (this.isLooking || document.visibilityState !== "visible") return;
    this.isLooking = true;
    try {
      const changed = await refreshRuns();
      this.messages.clearError("runs");
      this.top.looked(changed.size > 0);
      const isFirst = !this.hasRuns;
      this.hasRuns = true;
      if (isFirst || changed.size > 0) this.#refresh();
      else this.side.update();
    } catch (error) {
      this.messages.error(error, "runs");
    } finally {
      this.isLooking = false;
    }
  }

  #changed(changed) {
    if ([...changed].every((key) => FRAME_KEYS.has(key))) this.#updateFrame();
    else this.#refresh();
  }

  #updateFrame() {
    this.side.update();
    this.top.update();
    this.messages.notes(linkProblems());
    this.#markTabs();
  }

  /** Bring frame and view up to date; what is set in one go makes one update. */
  #refresh() {
    if (!this.hasRuns || this.isWaiting) return;
    this.isWaiting = true;
    this.view?.expire();
    queueMicrotask(() => {
      this.isWaiting = false;
      this.#updateFrame();
      this.#show();
    });
  }

  #show() {
    const entry = focus() ? currentView() : NO_RUN;
    if (this.view?.id !== entry.id) {
      this.view?.close();
      this.main.scrollTop = 0;
      this.panel.setAttribute("aria-labelledby", `tab-${currentView().id}`);
      this.view = new MountedView(entry, this.panel, (root) => this.#context(root), this.messages);
    }
    this.view.update();
  }

  #context(root) {
    return {
      root,
      api,
      state,
      runs,
      selected,
      focus,
      range,
      setRange,
      theme,
      onTheme,
      announce: (text) => this.messages.announce(text),
      toast: (text) => this.messages.toast(text),
      fail: (error) => this.messages.error(error, "view"),
    };
  }

  /** Fetch the other views while nothing else is to do. */
  async #preload() {
    for (const entry of VIEWS) {
      try {
        this.loaded.set(entry.id, await entry.load());
      } catch {
        // Opening the view says what is wrong.
      }
    }
    this.#markTabs();
  }

  /** Note on the tabs which views have nothing to show of the run in focus. */
  #markTabs() {
    const run = focus();
    for (const [id, view] of this.loaded) {
      const answer = run && view.needs ? view.needs(run) : true;
      this.top.mark(id, answer === true ? null : answer || "This run has no record for this view.");
    }
  }

  #skip(event) {
    event.preventDefault();
    this.panel.focus();
  }
}

/** Whether anybody can see the page: TensorBoard keeps the frames of other tabs without a size. */
function isSeen() {
  return document.visibilityState === "visible" && document.documentElement.clientWidth > 0;
}

/**
 * A view on the page: fetched, mounted, and kept up to date until it is taken off.
 *
 * @module mounted_view
 */

import { h } from "./dom.js";

/** A view from its opening to its closing. */
export class MountedView {
  /**
   * @param {import("./view_table.js").ViewEntry} entry
   * @param {HTMLElement} panel Where it stands.
   * @param {(root: HTMLElement) => import("./view_table.js").ViewContext} contextOf
   * @param {{error: (error: Error, source: string) => void, clearError: (source: string) => void}} messages
   */
  constructor(entry, panel, contextOf, messages) {
    this.id = entry.id;
    this.entry = entry;
    this.messages = messages;
    this.root = h("div", { class: "view", "data-view": entry.id, "data-ready": "false" });
    this.loading = h("p", { class: "loading", role: "status" }, "Loading…");
    panel.append(this.loading, this.root);
    this.isClosed = false;
    this.isStale = false;
    this.updating = null;
    this.opening = this.#open(contextOf);
  }

  /** Say that what it shows is out of date. */
  expire() {
    this.#mark(false);
  }

  /** Bring it up to date. One update at a time; what comes meanwhile makes one more. */
  update() {
    this.isStale = true;
    this.updating ??= this.#updateWhileStale();
  }

  /** Take it off the page. */
  async close() {
    this.isClosed = true;
    this.loading.remove();
    this.root.remove();
    this.messages.clearError("view");
    const view = await this.opening;
    await this.updating;
    view?.unmount();
  }

  async #updateWhileStale() {
    const view = await this.opening;
    while (this.isStale && !this.isClosed) {
      this.isStale = false;
      this.#mark(false);
      await this.#updateOnce(view);
      if (!this.isStale) this.#mark(true);
    }
    this.updating = null;
  }

  /** The view, or null where it could not be had, which has been told then. */
  async #open(contextOf) {
    try {
      const view = await this.entry.load();
      return this.isClosed ? null : await view.mount(contextOf(this.root));
    } catch (error) {
      this.#tell(error);
      return null;
    }
  }

  async #updateOnce(view) {
    if (!view) return;
    try {
      await view.update();
      if (!this.isClosed) this.messages.clearError("view");
    } catch (error) {
      this.#tell(error);
    }
  }

  #mark(isReady) {
    if (isReady) this.loading.remove();
    this.root.dataset.ready = String(isReady);
    if (isReady) this.root.removeAttribute("aria-busy");
    else this.root.setAttribute("aria-busy", "true");
  }

  #tell(error) {
    if (!this.isClosed && error.name !== "AbortError") this.messages.error(error, "view");
  }
}

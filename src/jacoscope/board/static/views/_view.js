/**
 * What the views of a single run have in common: how they load and draw, and how they keep the
 * reader's place while they are redrawn.
 *
 * @module views/_view
 */

import { h } from "../dom.js";

/**
 * A view that loads what it needs and then draws it. Faults are the page's to show.
 *
 * @param {(signal: AbortSignal) => Promise<*>} load
 * @param {(data: *) => void} draw
 * @param {() => void} destroy Gives up what the drawing holds.
 * @returns {{update: () => Promise<void>, unmount: () => void}}
 */
export function liveView(load, draw, destroy) {
  const controller = new AbortController();
  return {
    async update() {
      const data = await load(controller.signal);
      if (!controller.signal.aborted) draw(data);
    },
    unmount() {
      controller.abort();
      destroy();
    },
  };
}

/** The query that names a run. */
export function queryOf(run) {
  return { run: run.run, group: run.group };
}

/**
 * Tells whether anything that a drawing depends on has changed since it was last asked, so that a
 * reload without news leaves the page alone.
 *
 * @returns {(...dependencies: *) => boolean}
 */
export function changes() {
  let last = null;
  return (...now) => {
    const changed = !last || last.length !== now.length || now.some((each, i) => !Object.is(each, last[i]));
    last = now;
    return changed;
  };
}

/**
 * Redraw a part of the page. What had the focus in it, by `data-key`, has it afterwards; where that is
 * gone, what stands in its place.
 *
 * @param {HTMLElement} container
 * @param {() => void} redraw
 */
export function keepingPlace(container, redraw) {
  const keyed = () => [...container.querySelectorAll("[data-key]")];
  const { activeElement: active } = document;
  const place = keyed().indexOf(active);
  const { scrollTop, scrollLeft } = container;
  redraw();
  container.scrollTop = scrollTop;
  container.scrollLeft = scrollLeft;
  if (place < 0) return;
  const nodes = keyed();
  const next =
    nodes.find((node) => node.dataset.key === active.dataset.key) ?? nodes[Math.min(place, nodes.length - 1)];
  next?.focus({ preventScroll: true });
}

/** A view's heading, with a sentence on what it shows. */
export function viewHead(title, lead) {
  return h("div", { class: "view-head" }, h("h2", null, title), h("p", { class: "note" }, lead));
}

/**
 * Places of figures that come and go with what a run has, in an order that stays.
 *
 * @module views/_slots
 */

import { h } from "../dom.js";

/**
 * @param {HTMLElement} container
 * @param {Object<string, (place: HTMLElement, spec: object) => {set: Function, destroy: Function}>} makers
 *   What draws the figure of each place, in order.
 * @returns {{put: (name: string, spec: object|null) => void, destroy: () => void}} `put` draws a figure,
 *   or takes it away where there is nothing to draw.
 */
export function slots(container, makers) {
  const figures = new Map();
  const places = new Map(Object.keys(makers).map((name) => [name, h("div", { class: "v-slot" })]));
  container.append(...places.values());

  function remove(name) {
    figures.get(name)?.destroy();
    figures.delete(name);
  }

  return {
    put(name, spec) {
      if (!spec) remove(name);
      else if (figures.has(name)) figures.get(name).set(spec);
      else figures.set(name, makers[name](places.get(name), spec));
    },
    destroy() {
      for (const name of [...figures.keys()]) remove(name);
    },
  };
}

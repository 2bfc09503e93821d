/**
 * The choice of a quantity, and what it is.
 *
 * @module views/_quantity
 */

import { h, labelled, replace, select } from "../dom.js";
import { emptyState } from "../empty.js";

const FIRST = "grad_rms";

/** The quantities of a run that have a value per row and step. */
export function plottable(run) {
  return run.quantities.filter((quantity) => !quantity.histogram);
}

/** The quantity to show of a run: the asked one, or the most telling one that there is. */
export function chosenQuantity(run, asked) {
  const all = plottable(run);
  if (asked) return all.find((quantity) => quantity.name === asked) ?? null;
  return all.find((quantity) => quantity.name === FIRST) ?? all[0] ?? null;
}

/**
 * A select with the quantities by family, and a text on the chosen one.
 *
 * @param {(name: string) => void} onChange
 * @returns {{control: HTMLElement, text: HTMLElement, set: (run: object, quantity: object|null, asked: string|null) => void}}
 */
export function quantityChoice(onChange) {
  const control = h("span", { class: "quantity" });
  const text = h("div", { class: "about" });
  let drawn = "";
  return {
    control,
    text,
    set(run, quantity, asked) {
      const key = JSON.stringify([plottable(run), quantity?.name, asked]);
      if (key === drawn) return;
      drawn = key;
      const hadFocus = control.contains(document.activeElement);
      const choices = plottable(run).map(choice);
      if (!quantity && asked) choices.unshift({ value: asked, text: `${asked} (not recorded)` });
      const node = select({
        choices,
        value: quantity?.name ?? asked,
        onChange,
        props: { "data-key": "quantity" },
      });
      replace(control, labelled("Quantity", node));
      if (hadFocus) node.focus();
      replace(text, quantity ? aboutQuantity(quantity) : null);
    },
  };
}

/** What is said where a run has no record of a quantity. */
export function notRecorded(run, name) {
  return emptyState({
    title: `${name} is not recorded in ${run.label}`,
    text: "Another quantity can be chosen above. To have this one in the next run, add it to the monitor's configuration; a list of quantities replaces the default one.",
    yaml: `monitor:\n  quantities: [grad_norm, grad_rms, update_ratio, ${yamlName(name)}]\n`,
  });
}

function choice({ name, title, family, probe }) {
  return { value: name, text: title || name, group: family || (probe ? "Probes" : "Quantities") };
}

function aboutQuantity({ name, reading, definition, source, unit, probe }) {
  const facts = [
    ["Name", h("code", null, name)],
    definition ? ["Definition", definition] : null,
    ["Unit", unit && unit !== "1" ? unit : "none, a ratio"],
    source ? ["Source", source] : null,
    probe ? ["Measured", "by probes, at the probed steps"] : null,
  ].filter(Boolean);
  return [
    reading ? h("p", { class: "reading" }, reading) : null,
    h(
      "details",
      { "data-key": "about" },
      h("summary", null, "Definition and source"),
      h(
        "dl",
        { class: "facts" },
        facts.map(([term, value]) => [h("dt", null, term), h("dd", null, value)]),
      ),
    ),
  ];
}

/** A name from a link is data: it goes into YAML only where it reads as a plain name. */
function yamlName(name) {
  return /^[A-Za-z_]\w*$/.test(name) ? name : "NAME";
}

/**
 * What the pictures of the outputs view show, made from the server's replies.
 *
 * @module views/_output_specs
 */

import { step as stepText } from "../format.js";
import { gridFigure } from "./_grid.js";
import { shortNames } from "./_names.js";
import { imageSaliency } from "./_saliency_images.js";
import { tokenSaliency } from "./_saliency_tokens.js";

const FEATURES = 48;
const LAYERS = 60;

/** Input saliency at a step, whatever the input is; `null` where there is none. */
export function saliencySpec({ meta, arrays }, theme) {
  if (!arrays.saliency_maps || !meta.saliency) return null;
  const given = {
    maps: arrays.saliency_maps,
    things: arrays.saliency_things,
    saliency: meta.saliency,
    ids: meta.ids,
    theme,
  };
  const draw = { image: imageSaliency, sequence: tokenSaliency, features: featureSaliency }[meta.saliency.kind];
  return draw
    ? {
        title: `Input saliency at step ${stepText(meta.step)}`,
        ...draw({ ...given, features: meta.features ?? [] }),
      }
    : null;
}

/** Saliency of a table's rows: features down; samples, or a sample's outputs, across. */
function featureSaliency({ maps, saliency, ids, features, theme }) {
  const [n, k, d] = maps.shape;
  const shown = largestPlaces(maps.data, d, (at) => at % d, FEATURES);
  const head = (i) =>
    `${ids[i] ?? `sample ${i}`}${saliency.labels[i] === null ? "" : ` · label ${saliency.labels[i]}`}`;
  const columns = [];
  const marked = [];
  for (let i = 0; i < n; i += 1) {
    for (let c = 0; c < k; c += 1) {
      columns.push(k === 1 ? head(i) : `${ids[i] ?? i} → ${saliency.outputs[i][c]}`);
      marked.push(k > 1 && String(saliency.outputs[i][c]) === saliency.labels[i]);
    }
  }
  const values = shown.flatMap((feature) => columns.map((_, column) => maps.data[column * d + feature]));
  const part = shown.length < d ? ` The ${shown.length} of ${d} features that move outputs most.` : "";
  const across = k === 1 ? "Across: samples." : "Across: sample → output, in bold the label's.";
  const grid = gridFigure({
    rows: shown.map((feature) => features[feature] ?? `x${feature}`),
    columns,
    values,
    style: k === 1 ? "bar" : "shade",
    rowNoun: "feature",
    columnNoun: "sample",
    marked,
    theme,
  });
  return {
    ...grid,
    note: `∂f/∂x: how much an output moves with one feature, all others held where they are; in output per unit of the feature. ${across}${part}`,
  };
}

/** Places with the largest values by size, in their own order. */
function largestPlaces(data, count, placeOf, most) {
  const sizes = new Float64Array(count);
  data.forEach((value, at) => {
    sizes[placeOf(at)] = Math.max(sizes[placeOf(at)], Math.abs(value) || 0);
  });
  const places = Array.from(sizes.keys());
  if (count <= most) return places;
  return places
    .sort((a, b) => sizes[b] - sizes[a])
    .slice(0, most)
    .sort((a, b) => a - b);
}

/** How sensitive each output is to each layer, at a step. */
export function sensitivitySpec({ meta, arrays }, theme) {
  const found = arrays.output_sensitivity;
  if (!found) return null;
  const { short, prefix } = shortNames(meta.sensitivity_layers);
  const [layers, outputs] = found.shape;
  const shown = largestPlaces(found.data, layers, (at) => Math.floor(at / outputs), LAYERS);
  const grid = gridFigure({
    rows: shown.map((layer) => short[layer]),
    columns: Array.from({ length: outputs }, (_, c) => String(c)),
    values: shown.flatMap((layer) => Array.from(found.data.subarray(layer * outputs, (layer + 1) * outputs))),
    style: "shade",
    rowNoun: "layer",
    columnNoun: "output",
    theme,
  });
  return {
    ...grid,
    title: `Sensitivity of each output to each layer at step ${stepText(meta.step)}`,
    note: `√(mean over samples of ‖∂f_c/∂θ‖²), output c across, ${prefix ? `layers of ${prefix}` : "layers"} down: how far the output moves when the layer's weights are shaken.${shown.length < layers ? ` The ${shown.length} of ${layers} layers with the largest values.` : ""}`,
  };
}

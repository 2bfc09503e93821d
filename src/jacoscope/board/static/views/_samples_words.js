/**
 * What is known of samples, in words.
 *
 * @module views/_samples_words
 */

import { own } from "./_values.js";

/** What each column of numbers is called, where it is sorted by and in files. */
export const TITLES = {
  id: "id",
  label: "class",
  loss: "loss",
  mean_loss: "mean loss",
  norm: "gradient norm",
  mean_norm: "mean gradient norm",
  alignment: "alignment with the batch",
  class_alignment: "alignment with the class",
  mean_class_alignment: "mean alignment with the class",
  last_layer_norm: "gradient norm of the last layer",
  step: "last seen step",
};

/** How each of the numbers is read. */
export const READINGS = {
  loss: "Its own loss when it was last seen.",
  mean_loss: "Running mean of its loss over epochs, later ones weighing more.",
  norm: "‖g_i‖, the norm of its own gradient: how hard it pulls at the network.",
  mean_norm: "Running mean of that norm over epochs.",
  alignment: "cos(g_i, G): 1 pulls as its batch does, below 0 against it.",
  class_alignment: "Mean cosine with the gradients of the others of its class in the batch.",
  mean_class_alignment: "Running mean of that alignment over epochs.",
  last_layer_norm: "‖g_i‖ over the last layer alone.",
  step: "The optimiser step at which it was last seen.",
};

/** An image's address, where it is the kind that the record writes and nothing else. */
export function pictureOf(images, id) {
  const address = own(images, id);
  return typeof address === "string" && address.startsWith("data:image/png;base64,") ? address : null;
}

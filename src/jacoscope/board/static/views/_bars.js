/**
 * Small bars that stand in cells and lists, each beside its number.
 *
 * @module views/_bars
 */

import { h, unseen } from "../dom.js";
import { percent } from "../format.js";
import { cut } from "./_names.js";
import { fixed } from "./_values.js";

/** A number from −1 to 1 with a bar to either side of the middle. */
export function signedBar(value) {
  const share = Number.isFinite(value) ? Math.max(-1, Math.min(1, value)) : 0;
  const fill = h("span", {
    class: `v-signed-fill ${share < 0 ? "is-below" : "is-above"}`,
    style: { left: `${50 + Math.min(share, 0) * 50}%`, width: `${Math.abs(share) * 50}%` },
  });
  return h(
    "span",
    { class: "v-signed-cell" },
    h("span", { class: "v-signed", "aria-hidden": "true" }, fill),
    h("span", { class: "v-signed-number" }, fixed(value)),
  );
}

/**
 * Shares of a whole as one bar, with the largest share's name below.
 *
 * @param {[string, number][]} shares By name, largest first.
 * @param {(name: string) => string} colorOf
 * @param {(name: string) => string} shortOf
 */
export function shareBar(shares, colorOf, shortOf) {
  const words = shares.map(([name, share]) => `${name} ${percent(share, 0)}`).join(", ");
  const [first] = shares;
  return h(
    "span",
    { class: "v-shares", title: words },
    h(
      "span",
      { class: "v-shares-bar", "aria-hidden": "true" },
      shares.map(([name, share]) =>
        h("span", { style: { width: `${share * 100}%`, background: colorOf(name) } }),
      ),
    ),
    h(
      "span",
      { class: "v-second", "aria-hidden": "true" },
      `${percent(first[1], 0)} ${cut(shortOf(first[0]), 9, "end")}`,
    ),
    unseen(words),
  );
}

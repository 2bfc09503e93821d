/**
 * A figure painted on one canvas, whose parts are read by pointer or keys.
 *
 * @module views/_picture
 */

import { h } from "../dom.js";
import { frame } from "../export.js";
import { sharp } from "../heat_axes.js";
import { onWidth } from "./_paint.js";

/**
 * @typedef {object} Part
 * @property {number} x
 * @property {number} y
 * @property {number} width
 * @property {number} height
 * @property {string} text What it says.
 */

/**
 * @typedef {object} PictureSpec
 * @property {string} title
 * @property {string} note
 * @property {(width: number) => number} heightOf
 * @property {(painter: CanvasRenderingContext2D, width: number) => Part[]} paint Draws all of it, and
 *   tells where its parts are, in reading order.
 * @property {string} summary What screen readers say of it.
 * @property {string} [hint] What stands where no part is pointed at.
 * @property {() => *[][]|string} csv
 */

/**
 * @param {HTMLElement} container
 * @param {{name: string, theme: object, announce: (text: string) => void}} options
 * @param {PictureSpec} spec
 * @returns {{set: (spec: PictureSpec) => void, destroy: () => void}}
 */
export function picture(container, { name, theme, announce }, spec) {
  const canvas = h("canvas", { class: "v-canvas", tabindex: "0", role: "img" });
  const readout = h("p", { class: "readout" });
  let parts = [];
  let at = -1;
  const { node, body, setTitle } = frame(container, {
    title: spec.title,
    note: spec.note,
    name,
    png: () => {
      // Without what the reader points at.
      point(-1);
      return canvas;
    },
    csv: () => spec.csv(),
  });
  body.append(canvas, readout);

  function draw() {
    const width = Math.floor(body.clientWidth);
    if (!width) return;
    const painter = sharp(canvas, width, spec.heightOf(width));
    parts = spec.paint(painter, width);
    if (at >= parts.length) at = -1;
    if (at >= 0) outline(painter, parts[at], theme);
    readout.textContent = at >= 0 ? parts[at].text : (spec.hint ?? "Point at a part to read it.");
  }

  function point(index) {
    if (index === at) return;
    at = index;
    draw();
  }

  canvas.addEventListener("pointermove", ({ offsetX, offsetY }) =>
    point(
      parts.findIndex(
        ({ x, y, width, height }) =>
          offsetX >= x && offsetX < x + width && offsetY >= y && offsetY < y + height,
      ),
    ),
  );
  canvas.addEventListener("pointerleave", () => point(-1));
  canvas.addEventListener("keydown", (event) => {
    if (!event.key.startsWith("Arrow") && event.key !== "Escape") return;
    event.preventDefault();
    point(event.key === "Escape" ? -1 : neighbour(parts, at, event.key));
    if (at >= 0) announce(parts[at].text);
  });
  const stop = onWidth(body, draw);

  function set(next) {
    spec = next;
    setTitle(spec.title, spec.note);
    canvas.setAttribute("aria-label", `${spec.title}. ${spec.summary} Arrow keys read its parts.`);
    draw();
  }

  set(spec);
  return {
    set,
    destroy() {
      stop();
      node.remove();
    },
  };
}

function outline(painter, { x, y, width, height }, theme) {
  for (const [line, color] of [
    [4, theme.token("--surface")],
    [2, theme.token("--text")],
  ]) {
    painter.lineWidth = line;
    painter.strokeStyle = color;
    painter.strokeRect(x - 1, y - 1, width + 2, height + 2);
  }
}

/** The part before or after, or the nearest one above or below. */
function neighbour(parts, at, key) {
  if (at < 0 || !parts.length) return parts.length ? 0 : -1;
  if (key === "ArrowLeft") return Math.max(0, at - 1);
  if (key === "ArrowRight") return Math.min(parts.length - 1, at + 1);
  const [here, way] = [parts[at], key === "ArrowDown" ? 1 : -1];
  let [best, distance] = [at, Infinity];
  parts.forEach((part, index) => {
    const down = way * (part.y - here.y);
    const away = down * 4 + Math.abs(part.x - here.x);
    if (down > 0.5 && away < distance) [best, distance] = [index, away];
  });
  return best;
}

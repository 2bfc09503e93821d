/**
 * Square matrices of samples by samples, such as the Gram matrix of a batch.
 *
 * @module matrix
 */

import { extent } from "./align.js";
import { scaleOf } from "./colors.js";
import { h } from "./dom.js";
import { frame } from "./export.js";
import { csv, number, unit as unitText } from "./format.js";
import { drawColorBar, fillLegend, sharp } from "./heat_axes.js";
import { drawGroups, drawMatrix, paintMatrix, stretches } from "./matrix_paint.js";

const EDGE = 26;
const NAMES = ["row", "column", "value"];

/**
 * @typedef {object} MatrixSpec
 * @property {string} title
 * @property {string} [note]
 * @property {string} [name]
 * @property {Float32Array} values N × N.
 * @property {number} n
 * @property {ArrayLike<number>} [order] Which sample stands at each place; as they are without.
 * @property {string[]} labels What each sample is called, in the order of `values`.
 * @property {string[]} [groups] What it belongs to; lines part groups that follow one another.
 * @property {boolean} [log]
 * @property {boolean} [diverging] Colours about zero; taken where values go below it without.
 * @property {[number, number]} [range] Ends of the colours, such as [-1, 1] for cosines.
 * @property {string} [unit]
 * @property {number} [size] Side in CSS pixels.
 * @property {(row: number, column: number) => void} [onClick] Gets samples, in the order of `values`.
 */

/**
 * A matrix at the end of `container`.
 *
 * @param {HTMLElement} container
 * @param {MatrixSpec} spec
 * @returns {{set: (spec: MatrixSpec) => void, destroy: () => void, canvas: HTMLCanvasElement}}
 */
export function matrix(container, spec) {
  return new Matrix(container, spec);
}

class Matrix {
  constructor(container, spec) {
    this.cell = null;
    this.frame = frame(container, {
      title: spec.title,
      note: spec.note,
      name: spec.name ?? spec.title,
      png: () => this.#picture(),
      csv: () => this.#csv(),
    });
    this.canvas = h("canvas", {
      class: "matrix-canvas",
      role: "img",
      tabindex: "0",
      on: {
        pointermove: (event) => this.#hover(event),
        pointerleave: () => this.#point(null),
        click: () => this.#click(),
        keydown: (event) => this.#key(event),
      },
    });
    this.legend = h("div", { class: "heat-legend" });
    this.readout = h("div", {
      class: "readout",
      role: "status",
      "aria-label": "Pair under the cursor",
    });
    this.holder = h("div", { class: "matrix" }, this.canvas);
    this.frame.body.append(this.legend, this.holder, this.readout);
    this.observer = new ResizeObserver(() => this.#draw());
    this.observer.observe(this.holder);
    this.set(spec);
  }

  set(spec) {
    this.spec = spec;
    this.frame.setTitle(spec.title, spec.note ?? "");
    this.order = spec.order ?? Array.from({ length: spec.n }, (_, index) => index);
    const found = extent([spec.values], spec.log ? (value) => value > 0 : () => true);
    const isDiverging = spec.diverging ?? (!spec.log && found !== null && found[0] < 0);
    this.scale = scaleOf(spec.range ?? found, {
      log: spec.log,
      colors: isDiverging ? "diverging" : "sequential",
    });
    this.painted = paintMatrix(spec.values, spec.n, this.order, this.scale);
    const painted = { faults: false, missing: this.painted.missing, below: false };
    fillLegend(this.legend, { scale: this.scale, unit: spec.unit, painted });
    if (this.cell && Math.max(...this.cell) >= spec.n) this.cell = null;
    const values = found
      ? `values from ${number(found[0])} to ${number(found[1])}${unitText(spec.unit)}`
      : "no values";
    this.canvas.setAttribute(
      "aria-label",
      `${spec.title}. Matrix of ${spec.n} by ${spec.n} samples, ${values}. Arrow keys move over the pairs.`,
    );
    this.#draw();
    this.#tell();
  }

  destroy() {
    this.observer.disconnect();
    this.frame.node.remove();
  }

  #value(row, column) {
    return this.spec.values[this.order[row] * this.spec.n + this.order[column]];
  }

  #side() {
    const room = this.holder.clientWidth - EDGE;
    return Math.max(Math.min(this.spec.size ?? 420, room), 120);
  }

  #draw() {
    if (this.holder.clientWidth === 0) return;
    const side = this.#side();
    const context = sharp(this.canvas, side + EDGE, side + EDGE);
    this.#drawOn(context, 0, side);
    if (!this.cell) return;
    const cell = side / this.spec.n;
    const wide = Math.max(cell, 5);
    const [row, column] = this.cell;
    for (const [line, color] of [
      [3, "#ffffff"],
      [1.5, "#000000"],
    ]) {
      context.lineWidth = line;
      context.strokeStyle = color;
      context.strokeRect(
        EDGE + (column + 0.5) * cell - wide / 2,
        (row + 0.5) * cell - wide / 2,
        wide,
        wide,
      );
    }
  }

  #drawOn(context, top, side) {
    drawMatrix(context, this.painted.canvas, { left: EDGE, top, side });
    if (this.spec.groups) {
      drawGroups(context, stretches(this.spec.groups, this.order), {
        left: EDGE,
        top,
        side,
        n: this.spec.n,
      });
    }
  }

  #hover(event) {
    const box = this.canvas.getBoundingClientRect();
    const cell = this.#side() / this.spec.n;
    const row = Math.floor((event.clientY - box.top) / cell);
    const column = Math.floor((event.clientX - box.left - EDGE) / cell);
    const isInside = Math.min(row, column) >= 0 && Math.max(row, column) < this.spec.n;
    this.#point(isInside ? [row, column] : null);
  }

  #key(event) {
    const far = event.shiftKey ? 10 : 1;
    const move = {
      ArrowUp: [-far, 0],
      ArrowDown: [far, 0],
      ArrowLeft: [0, -far],
      ArrowRight: [0, far],
    }[event.key];
    if (event.key === "Enter") this.#click();
    if (event.key === "Escape") this.#point(null);
    if (!move || this.spec.n === 0) return;
    event.preventDefault();
    const within = (value) => Math.min(Math.max(value, 0), this.spec.n - 1);
    const from = this.cell ?? [0, 0];
    this.#point(this.cell ? from.map((place, axis) => within(place + move[axis])) : from);
  }

  #point(cell) {
    if (String(cell) === String(this.cell)) return;
    this.cell = cell;
    this.#draw();
    this.#tell();
  }

  #click() {
    if (this.cell) this.spec.onClick?.(...this.cell.map((place) => this.order[place]));
  }

  #tell() {
    if (!this.cell) {
      this.readout.textContent = "";
      return;
    }
    const [row, column] = this.cell.map((place) => this.spec.labels[this.order[place]]);
    this.readout.textContent = `${row} × ${column}: ${number(this.#value(...this.cell))}${unitText(this.spec.unit)}`;
  }

  #picture() {
    const side = this.#side();
    const canvas = h("canvas");
    const context = sharp(canvas, side + EDGE, side + EDGE + 40);
    canvas.dataset.ratio = String(window.devicePixelRatio);
    drawColorBar(context, this.scale, { left: EDGE, top: 2 });
    this.#drawOn(context, 40, side);
    return canvas;
  }

  #csv() {
    const { n, labels } = this.spec;
    const rows = [NAMES];
    for (let row = 0; row < n; row += 1) {
      for (let column = 0; column < n; column += 1) {
        rows.push([labels[this.order[row]], labels[this.order[column]], this.#value(row, column)]);
      }
    }
    return csv(rows);
  }
}

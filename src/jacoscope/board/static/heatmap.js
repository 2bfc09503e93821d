/**
 * Heat maps of rows over steps, read by mouse or keyboard.
 *
 * @module heatmap
 */

import { extent } from "./align.js";
import { scaleOf } from "./colors.js";
import { h, replace } from "./dom.js";
import { frame } from "./export.js";
import { drawColumnAxis, fillLegend, heatPicture, sharp } from "./heat_axes.js";
import { drawCells, paintCells } from "./heat_paint.js";
import { watchPointer } from "./heat_pointer.js";
import { drawSigns } from "./heat_signs.js";
import { cellText, heatCsv, heatSummary } from "./heat_text.js";

export { matrix } from "./matrix.js";

const AXIS_HEIGHT = 38;

/**
 * @typedef {object} HeatSpec
 * @property {string} title
 * @property {string} [note]
 * @property {string} [name] What downloaded files are called.
 * @property {{label: string, title?: string, blank?: boolean}[]} rows From top to bottom; blank
 *   ones have no cells.
 * @property {ArrayLike<number>} columns The (first) step of each column.
 * @property {ArrayLike<number>} [columnsLast] The last step of each, where columns span several.
 * @property {Float32Array} low Rows × columns; nan where there is no value.
 * @property {Float32Array} high
 * @property {Uint8Array} [flags] Bits 1 nan, 2 inf, 4 −inf, 8 no value.
 * @property {boolean} [log]
 * @property {"sequential"|"diverging"} [colors] Without it diverging if values go below zero.
 * @property {"high"|"low"|"far"} [show] Which value of a cell its colour shows.
 * @property {string} [unit]
 * @property {string} [xLabel]
 * @property {number} [rowHeight]
 * @property {number} [height] Of the visible part; it scrolls beyond.
 * @property {HTMLElement} [gutter] What stands left of the rows, `rowHeight` each; labels without.
 * @property {number} [gutterWidth]
 * @property {number|null} [marker] A step to mark.
 * @property {ArrayLike<number>} [selectedRows]
 * @property {(cell: {row: number, column: number}|null) => void} [onHover]
 * @property {(row: number, event: Event) => void} [onClick]
 * @property {(range: [number, number]) => void} [onBrush]
 * @property {(cell: {row: number, column: number}) => string} [read] What a cell says.
 * @property {string} [hint] What is said while the cursor is on none.
 */

/**
 * A heat map at the end of `container`.
 *
 * @param {HTMLElement} container
 * @param {HeatSpec} spec
 * @returns {{set: (spec: HeatSpec) => void, destroy: () => void, say: (text: string) => void,
 *   foot: HTMLElement, canvas: HTMLCanvasElement}} `say` replaces what is read out; `foot` is a place
 *   for controls under the cells.
 */
export function heatmap(container, spec) {
  return new HeatMap(container, spec);
}

class HeatMap {
  constructor(container, spec) {
    this.spec = spec;
    this.cell = null;
    this.brush = null;
    this.frame = frame(container, {
      title: spec.title,
      note: spec.note,
      name: spec.name ?? spec.title,
      png: () => heatPicture(this.#pictured()),
      csv: () => heatCsv(this.spec),
    });
    this.canvas = h("canvas", { class: "heat-canvas", role: "img", tabindex: "0" });
    this.legend = h("div", { class: "heat-legend" });
    this.gutter = h("div", { class: "heat-gutter" });
    this.cells = h("div", { class: "heat-cells" }, this.canvas);
    this.grid = h("div", { class: "heat-grid" }, this.gutter, this.cells);
    this.scroller = h(
      "div",
      { class: "heat-scroll", on: { scroll: () => this.#later() } },
      this.grid,
    );
    this.axis = h("canvas", { class: "heat-axis", "aria-hidden": "true" });
    this.foot = h("div", { class: "heat-foot" });
    this.readout = h("div", {
      class: "readout",
      role: "status",
      "aria-label": "Value under the cursor",
    });
    this.frame.body.append(this.legend, this.scroller, this.axis, this.foot, this.readout);
    watchPointer(this.canvas, this);
    this.observer = new ResizeObserver(() => this.#later());
    this.observer.observe(this.scroller);
    this.set(spec);
  }

  set(spec) {
    this.spec = spec;
    this.frame.setTitle(spec.title, spec.note ?? "");
    this.#scale();
    const { rows, columns, gutter } = spec;
    const wide = spec.gutterWidth ?? 200;
    this.rowHeight = spec.rowHeight ?? 18;
    this.frame.body.style.setProperty("--gutter", `${wide}px`);
    this.scroller.style.maxHeight = `${Math.max(spec.height ?? 360, 3 * this.rowHeight)}px`;
    this.grid.style.height = `${rows.length * this.rowHeight}px`;
    if (gutter) {
      if (this.gutter.firstChild !== gutter) replace(this.gutter, gutter);
    } else {
      replace(
        this.gutter,
        rows.map((row) => this.#label(row)),
      );
    }
    fillLegend(this.legend, { scale: this.scale, unit: spec.unit, painted: this.painted });
    const isGone = this.cell?.row >= rows.length || this.cell?.column >= columns.length;
    if (isGone) this.cell = null;
    this.canvas.setAttribute("aria-label", heatSummary(this.spec, this.scale, this.painted));
    this.#draw();
    this.#tell();
  }

  say(text) {
    this.readout.textContent = text;
  }

  destroy() {
    this.observer.disconnect();
    cancelAnimationFrame(this.waiting);
    this.frame.node.remove();
  }

  /** Where in the cells a point of the canvas is; for the pointer. */
  locate(x, y) {
    const { rows, columns } = this.spec;
    const row = Math.floor((y + this.scroller.scrollTop) / this.rowHeight);
    const column = Math.floor((x / Math.max(this.canvas.clientWidth, 1)) * columns.length);
    const isInside = row >= 0 && row < rows.length && column >= 0 && column < columns.length;
    return isInside ? { row, column } : null;
  }

  /** Put the cursor on a cell, or away. */
  point(cell) {
    if (cell?.row === this.cell?.row && cell?.column === this.cell?.column) return;
    this.cell = cell;
    this.#later();
    this.#tell();
    this.spec.onHover?.(cell);
  }

  /** Move the cursor by keys, scrolling to where it is. */
  move(rows, columns) {
    const { spec } = this;
    if (spec.rows.length === 0 || spec.columns.length === 0) return;
    const from = this.cell ?? { row: 0, column: spec.columns.length - 1 };
    const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
    const row = within(from.row + (this.cell ? rows : 0), spec.rows.length);
    this.point({
      row,
      column: within(from.column + (this.cell ? columns : 0), spec.columns.length),
    });
    const top = row * this.rowHeight;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    const below = top + this.rowHeight - this.scroller.clientHeight;
    if (below > this.scroller.scrollTop) this.scroller.scrollTop = below;
  }

  click(event) {
    if (this.cell) this.spec.onClick?.(this.cell.row, event);
  }

  /** Show the columns that are being brushed over; null for none. */
  brushing(range) {
    this.brush = range;
    this.#later();
  }

  brushed([first, last]) {
    const { columns, columnsLast, onBrush } = this.spec;
    onBrush?.([columns[first], (columnsLast ?? columns)[last]]);
  }

  #scale() {
    const { low, high, flags, rows, columns, log, colors, show } = this.spec;
    const accept = log ? (value) => value > 0 : () => true;
    const range = extent([low, high], accept);
    const map = colors ?? (!log && range && range[0] < 0 ? "diverging" : "sequential");
    this.scale = scaleOf(range, { log, colors: map });
    this.show = show ?? (map === "diverging" ? "far" : "high");
    const data = { low, high, flags, rows, columns: columns.length, show: this.show };
    this.painted = paintCells(data, this.scale);
  }

  #later() {
    cancelAnimationFrame(this.waiting);
    this.waiting = requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    const { spec } = this;
    const width = this.cells.clientWidth;
    const height = Math.min(this.scroller.clientHeight, spec.rows.length * this.rowHeight);
    if (width < 2 || height < 2) return;
    // So that controls under the cells can stand exactly below them.
    this.foot.style.paddingRight = `${this.scroller.offsetWidth - this.scroller.clientWidth}px`;
    this.foot.style.setProperty("--cell", `${width / Math.max(spec.columns.length, 1)}px`);
    const context = sharp(this.canvas, width, height);
    const top = this.scroller.scrollTop;
    const first = Math.floor(top / this.rowHeight);
    const last = Math.min(Math.ceil((top + height) / this.rowHeight), spec.rows.length);
    const { rowHeight, painted, cell, brush } = this;
    const { rows, flags, columns } = spec;
    const place = { left: 0, top: first * rowHeight - top, width, rowHeight };
    drawCells(
      context,
      { ...place, first, count: last - first },
      { painted, flags, columns: columns.length, rows },
    );
    drawSigns(context, { width, height, top, rowHeight }, { ...spec, cell, brush });
    const label = spec.xLabel ?? "Step (a column for each captured step)";
    const axis = sharp(this.axis, width, AXIS_HEIGHT);
    drawColumnAxis(axis, { left: 0, top: 0, width, columns: spec.columns, label });
  }

  #tell() {
    const { hint = "", read = (cell) => cellText(this.spec, cell) } = this.spec;
    this.readout.textContent = this.cell ? read(this.cell) : hint;
  }

  #label(row) {
    return h(
      "div",
      {
        class: "heat-label",
        title: row.title ?? row.label,
        style: { height: `${this.rowHeight}px` },
      },
      row.label,
    );
  }

  #pictured() {
    const { painted, scale, rowHeight } = this;
    const width = Math.max(this.cells.clientWidth, 300);
    return { xLabel: "Step", ...this.spec, painted, scale, rowHeight, width };
  }
}

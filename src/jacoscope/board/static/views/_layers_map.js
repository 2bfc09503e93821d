/**
 * The heat map of the layers, with its tree and its slider.
 *
 * @module views/_layers_map
 */

import { number } from "../format.js";
import { heatmap } from "../heatmap.js";
import { closedAtFirst, shownNodes, treeList, treeOf } from "../tree.js";
import { MOST_ROWS } from "./_layers_data.js";
import { shownRows } from "./_layers_heat.js";
import { cellReader } from "./_layers_reader.js";
import { stepSlider } from "./_layers_step.js";

const OPEN_ROWS = 44;
const LARGEST_PLAIN_LAYER = 4;
const ROW = { wide: 19, narrow: 16, many: 30 };
const HEIGHT = { least: 300, share: 0.52 };
const GUTTER = 230;

export class LayersMap {
  /**
   * @param {HTMLElement} container Where the figure stands.
   * @param {object} context
   */
  constructor(container, context) {
    this.container = container;
    this.context = context;
    this.tree = treeList({
      label: "Layers and parameters",
      onToggle: (node) => this.#toggle(node),
      onSelect: (node) => this.#choose(node),
    });
    this.slider = stepSlider((step) => context.state.set({ step }));
    this.reader = cellReader(context);
  }

  /** Whether cells stand for several values: over steps, or over the rows of closed groups. */
  get isMerged() {
    return this.data.meta.binned || this.items.some((item) => item.isGroup && !item.isOpen);
  }

  /** @param {object} data Of `layersData`. */
  set(data) {
    this.data = data;
    this.#plant(data.meta.rows);
    const { state } = this.context;
    const toggled = new Set(listOf(state, "layers_toggled"));
    const isOpen = ({ path }) => this.closed.has(path) === toggled.has(path);
    this.items = shownNodes(this.nodes, isOpen);
    const chosen = new Set(
      data.names.map((name) => data.meta.rows.findIndex((row) => row.name === name)),
    );
    const rowHeight = this.items.length > ROW.many ? ROW.narrow : ROW.wide;
    this.tree.set(this.items, { rowHeight, selected: chosen });
    const spec = this.#spec(rowHeight, chosen);
    if (this.heat) {
      this.heat.set(spec);
    } else {
      this.heat = heatmap(this.container, spec);
      this.heat.foot.append(this.slider.node);
    }
    this.slider.set(data.columns, data.columnsLast, data.step);
  }

  destroy() {
    this.heat?.destroy();
  }

  /** A tree for these rows; what the reader has opened stays as it is while they are the same. */
  #plant(rows) {
    const key = JSON.stringify(rows.map((row) => row.name));
    if (key === this.key) return;
    this.key = key;
    // Where all rows can be seen, headings over a weight and a bias would only take their room.
    const fewest = rows.length <= OPEN_ROWS ? LARGEST_PLAIN_LAYER + 1 : 2;
    this.nodes = treeOf(rows, { fewest });
    this.closed = closedAtFirst(this.nodes, OPEN_ROWS);
  }

  #spec(rowHeight, chosen) {
    const { data, items, context } = this;
    const { quantity, columns, columnsLast, meta, log, step } = data;
    const isLow = context.state.get("layers_show") === "low";
    const isChosen = ({ node }) => node.row !== null && chosen.has(node.row);
    return {
      title: `${quantity.title || quantity.name} by layer and step`,
      note: noteOf(meta, columns.length),
      name: `${quantity.name}_layers_by_step`,
      ...shownRows(items, { ...data, rows: meta.rows, columns: columns.length }),
      columns,
      columnsLast,
      log,
      show: isLow ? "low" : undefined,
      unit: quantity.unit,
      xLabel: meta.binned
        ? "Step (each column spans several captured steps)"
        : "Step (one column per captured step)",
      rowHeight,
      height: Math.max(HEIGHT.least, Math.round(window.innerHeight * HEIGHT.share)),
      gutter: this.tree.node,
      gutterWidth: GUTTER,
      marker: step,
      selectedRows: items.flatMap((item, place) => (isChosen(item) ? [place] : [])),
      hint: "Point at a cell to read it; click a row for its curves; drag across to zoom.",
      read: (cell) => this.reader.read(cell, this.items, this.data, (text) => this.heat.say(text)),
      onClick: (place) => this.#clicked(this.items[place]),
      onBrush: (range) => context.setRange(range),
    };
  }

  #clicked({ node, isGroup }) {
    if (isGroup) this.#toggle(node);
    else this.#choose(node);
  }

  #toggle({ path }) {
    const toggled = new Set(listOf(this.context.state, "layers_toggled"));
    if (!toggled.delete(path)) toggled.add(path);
    this.context.state.set({
      layers_toggled: toggled.size > 0 ? JSON.stringify([...toggled]) : null,
    });
  }

  #choose({ path }) {
    const names = this.data.isDefault ? [] : [...this.data.names];
    const at = names.indexOf(path);
    if (at >= 0) names.splice(at, 1);
    else if (names.length < MOST_ROWS) names.push(path);
    else this.context.toast(`At most ${MOST_ROWS} rows are shown at once.`);
    this.context.state.set({ rows: names.length > 0 ? JSON.stringify(names) : null });
  }
}

function noteOf(meta, columns) {
  if (columns === 0) return "No step was captured in this range. “All” above shows all steps.";
  const thinned = meta.thinned
    ? " The record is very large: steps were thinned out at random."
    : "";
  const steps = `${number(meta.steps_in_range)} captured steps`;
  return `${steps}${meta.binned ? ` in ${number(columns)} columns; a cell keeps the extremes` : ""}.${thinned}`;
}

function listOf(state, key) {
  const value = state.getJson(key, []);
  return Array.isArray(value) ? value : [];
}

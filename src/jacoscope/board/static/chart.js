/**
 * Line charts on uPlot: bands between extremes, a legend with live values, a keyboard cursor.
 *
 * @module chart
 */

import { align, columnAt, isBand } from "./align.js";
import { plotOptions } from "./chart_options.js";
import { axisName, chartCsv, chartPicture, seriesText, summary } from "./chart_text.js";
import { h, replace } from "./dom.js";
import { frame } from "./export.js";
import { step } from "./format.js";
import { swatch } from "./glyphs.js";
import { theme } from "./theme.js";
import uPlot from "./vendor/uPlot/uPlot.esm.js";

export { barChart } from "./bars.js";

/**
 * @typedef {object} LineSpec
 * @property {string} title The figure's heading.
 * @property {string} [note] What it shows.
 * @property {string} [name] What downloaded files are called.
 * @property {string} xLabel
 * @property {string} yLabel With its unit.
 * @property {boolean} [log] Whether the y axis is logarithmic.
 * @property {object[]} series As in `align`, with `color`, `dash`, `width` and `shape` besides.
 * @property {number} [height]
 * @property {((range: [number|null, number|null]) => void)|null} [onZoom] Gets the brushed range,
 *   and two nulls after a double click.
 * @property {{x: number, label: string}[]} [markers] Vertical lines.
 * @property {string|(() => string)} [describe] The text alternative; made from the series without.
 * @property {(value: number) => string} [xFormat] Numbers of the x axis; steps without.
 */

/**
 * A line chart at the end of `container`.
 *
 * @param {HTMLElement} container
 * @param {LineSpec} spec
 * @returns {{set: (spec: LineSpec) => void, destroy: () => void, canvas: HTMLCanvasElement|null}}
 *   `set` draws other data in place, keeping focus.
 */
export function lineChart(container, spec) {
  return new LineChart(container, spec);
}

class LineChart {
  constructor(container, spec) {
    this.spec = spec;
    this.frame = frame(container, {
      title: spec.title,
      note: spec.note,
      name: spec.name ?? spec.title,
      png: () => chartPicture(this.plot, this.spec),
      csv: () => chartCsv(this.spec),
    });
    this.holder = h("div", {
      class: "plot",
      role: "img",
      tabindex: "0",
      on: { keydown: (event) => this.#key(event), blur: () => this.#moveTo(null) },
    });
    // Above the axis, as written from bottom to top long names do not fit.
    this.axisName = h("p", { class: "axis-name", "aria-hidden": "true" });
    this.hidden = h("p", { class: "note" });
    this.legend = h("div", { class: "legend" });
    this.spoken = h("div", { class: "unseen", "aria-live": "polite" });
    this.frame.body.append(this.axisName, this.holder, this.hidden, this.legend, this.spoken);
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(this.holder);
    this.#draw();
  }

  /** The canvas that is drawn on. */
  get canvas() {
    return this.plot?.ctx.canvas ?? null;
  }

  set(spec) {
    this.spec = spec;
    this.frame.setTitle(spec.title, spec.note ?? "");
    this.#draw();
  }

  destroy() {
    this.observer.disconnect();
    this.plot?.destroy();
    this.frame.node.remove();
  }

  #draw() {
    const { x, lines, hidden } = align(this.spec.series, Boolean(this.spec.log));
    this.x = x;
    const data = [x, ...lines.flatMap((line, index) => this.#columns(line, index))];
    const key = this.#structure();
    // A new plot only where its parts differ: new data alone keeps the cursor where it is.
    if (this.plot && key === this.key) {
      this.plot.setData(data);
    } else {
      this.key = key;
      this.plot?.destroy();
      const options = plotOptions(
        this.spec,
        () => this.spec,
        this.#width(),
        (index) => this.#read(index),
      );
      this.plot = new uPlot(options, data, this.holder);
      this.#buildLegend();
    }
    this.axisName.textContent = axisName(this.spec);
    this.hidden.textContent =
      hidden > 0 ? "Values at or below zero are not on a logarithmic axis." : "";
    this.hidden.hidden = hidden === 0;
    this.holder.setAttribute("aria-label", summary(this.spec));
    this.#read(this.plot.cursor.idx ?? null);
  }

  #columns(line, index) {
    const { value } = this.spec.series[index];
    const columns = [];
    if (line.low && line.high && isBand(this.spec.series[index])) columns.push(line.high, line.low);
    else if (!value) columns.push(line.high ?? line.low);
    if (value) columns.push(line.value);
    return columns;
  }

  /** All that a plot is built from but its data. */
  #structure() {
    const { log, yLabel, xLabel, height, series, onZoom, markers } = this.spec;
    const parts = series.map((one) => {
      const { label, color, dash, width, shape } = one;
      return [label, color, dash, width, shape, isBand(one), Boolean(one.value)];
    });
    const rest = [log, yLabel, xLabel, height, Boolean(onZoom), markers?.length > 0];
    return JSON.stringify([theme.isDark, rest, parts]);
  }

  #buildLegend() {
    this.values = [];
    replace(
      this.legend,
      this.spec.series.map((one) => {
        const value = h("span", { class: "legend-value" });
        this.values.push(value);
        return h("span", { class: "legend-item" }, swatch(one), h("span", null, one.label), value);
      }),
    );
  }

  /** Show what the series are at an index of the shared axis; without one, their last values. */
  #read(index) {
    if (!this.values || this.x.length === 0) return;
    const at = index === null || index === undefined ? Infinity : this.x[index];
    this.spec.series.forEach((one, place) => {
      const text = one.x.length > 0 ? seriesText(one, columnAt(one.x, at)) : "—";
      this.values[place].textContent = text;
    });
  }

  #key(event) {
    const last = this.x.length - 1;
    if (last < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const now = this.at ?? -1;
    const stride = event.shiftKey ? 10 : 1;
    const target = {
      ArrowRight: Math.min(now + stride, last),
      ArrowLeft: now < 0 ? last : Math.max(now - stride, 0),
      Home: 0,
      End: last,
      Escape: null,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.#moveTo(target);
    if (target === null) return;
    const texts = this.spec.series
      .slice(0, 8)
      .map((one) => `${one.label} ${seriesText(one, columnAt(one.x, this.x[target]))}`);
    const place = (this.spec.xFormat ?? step)(this.x[target]);
    this.spoken.textContent = `${this.spec.xLabel} ${place}: ${texts.join("; ")}`;
  }

  #moveTo(index) {
    this.at = index;
    if (!this.plot) return;
    const left = index === null ? -10 : this.plot.valToPos(this.x[index], "x");
    this.plot.setCursor({ left, top: index === null ? -10 : this.plot.over.clientHeight / 2 });
  }

  #width() {
    return Math.max(this.holder.clientWidth, 200);
  }

  #resize() {
    if (!this.plot || this.holder.clientWidth === 0) return;
    const width = this.#width();
    if (Math.abs(width - this.plot.width) >= 1) {
      this.plot.setSize({ width, height: this.plot.height });
    }
  }
}

/**
 * The main numbers of a run, as small charts side by side.
 *
 * @module views/_tiles
 */

import { extent } from "../align.js";
import { h } from "../dom.js";
import { frame } from "../export.js";
import { csv, number, unit } from "../format.js";
import { font, sharp } from "../heat_axes.js";
import { theme } from "../theme.js";
import { drawSpark, spansDecades, sparkline } from "./_spark.js";

const PICTURE = { columns: 5, width: 190, height: 96 };

/**
 * The numbers of one headline over the steps at which it was measured.
 *
 * @param {{meta: object, arrays: object}} reply Of `/data/overview`.
 * @param {string} name
 * @returns {{step: Float64Array, low: Float64Array, high: Float64Array, about: object}|null}
 */
export function headlineSeries({ meta, arrays }, name) {
  const row = meta.headline.findIndex((one) => one.name === name);
  if (row < 0) return null;
  const steps = arrays.step.data;
  const start = row * steps.length;
  const places = Array.from(steps.keys()).filter((at) =>
    Number.isFinite(arrays.low.data[start + at]),
  );
  const pick = (data, from) => Float64Array.from(places, (at) => data[from + at]);
  return {
    step: pick(steps, 0),
    low: pick(arrays.low.data, start),
    high: pick(arrays.high.data, start),
    about: meta.headline[row],
  };
}

/**
 * A figure of all headlines, each of which opens as a chart.
 *
 * @param {object} run
 * @param {{meta: object, arrays: object}} reply
 * @param {(name: string|null) => void} chart Opens the chart of a headline, or closes it.
 * @param {string|null} charted The one that is open.
 * @returns {HTMLElement}
 */
export function tiles(run, reply, chart, charted) {
  const place = h("div", { class: "part" });
  const all = reply.meta.headline.map((about) => headlineSeries(reply, about.name));
  if (all.length === 0) {
    place.append(h("p", { class: "note" }, "This run has no main numbers in its record."));
    return place;
  }
  const { body, node } = frame(place, {
    title: `Main numbers of ${run.label}`,
    note: "Last value, course over the run, lowest to highest. Each opens as a chart.",
    name: `main_numbers_${run.label}`,
    png: () => picture(run, all),
    csv: () => table(all),
  });
  node.classList.add("plain");
  body.append(
    h(
      "div",
      { class: "tiles" },
      all.map((numbers) => tile(run, numbers, chart, charted)),
    ),
  );
  return place;
}

function tile(run, numbers, chart, charted) {
  const { about } = numbers;
  const isOpen = charted === about.name;
  const label = `${about.title} over the run: ${spanText(numbers)}, last ${lastText(about)}${unit(about.unit)}`;
  const look = {
    color: run.color,
    dash: run.dash,
    label,
    log: spansDecades(numbers.low, numbers.high),
  };
  return h(
    "button",
    {
      type: "button",
      class: "tile",
      "aria-expanded": String(isOpen),
      "data-key": `tile ${about.name}`,
      "data-name": about.name,
      title: `${about.title}. Open as a chart.`,
      on: { click: () => chart(isOpen ? null : about.name) },
    },
    h("span", { class: "tile-title" }, about.title),
    h("span", { class: "tile-value" }, lastText(about)),
    h("span", { class: "tile-unit" }, unit(about.unit)),
    sparkline(numbers, look),
    h("span", { class: "tile-range" }, spanText(numbers)),
  );
}

/** JSON has no nan: a value that was measured and is not there was one. */
function lastText({ last, last_step: at }) {
  return last === null && at !== null ? "nan" : number(last);
}

function spanText({ low, high }) {
  const range = extent([low, high]);
  if (range === null) return "no values";
  if (range[0] === range[1]) return `always ${number(range[0])}`;
  return `${number(range[0])} to ${number(range[1])}${spansDecades(low, high) ? ", log" : ""}`;
}

function picture(run, all) {
  const { columns, width, height } = PICTURE;
  const canvas = h("canvas");
  const across = Math.min(columns, all.length);
  const context = sharp(canvas, across * width, Math.ceil(all.length / across) * height);
  canvas.dataset.ratio = String(window.devicePixelRatio);
  context.textBaseline = "top";
  all.forEach((numbers, place) => {
    const left = (place % across) * width;
    const top = Math.floor(place / across) * height;
    const write = (text, y, size, color) => {
      context.font = font(size);
      context.fillStyle = theme.token(color);
      context.fillText(text, left, top + y, width - 16);
    };
    write(numbers.about.title, 2, 12, "--muted");
    write(lastText(numbers.about) + unit(numbers.about.unit), 17, 13, "--text");
    const log = spansDecades(numbers.low, numbers.high);
    drawSpark(context, numbers, {
      left,
      top: top + 34,
      width: width - 16,
      height: 34,
      color: run.color,
      log,
    });
    write(spanText(numbers), 71, 11, "--muted");
  });
  return canvas;
}

function table(all) {
  const rows = [["name", "unit", "step", "low", "high"]];
  for (const { about, step, low, high } of all) {
    step.forEach((at, place) => rows.push([about.name, about.unit, at, low[place], high[place]]));
  }
  return csv(rows);
}

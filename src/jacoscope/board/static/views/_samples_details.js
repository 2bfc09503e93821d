/**
 * All that is known of one sample.
 *
 * @module views/_samples_details
 */

import { button, h, replace } from "../dom.js";
import { number, step as stepText } from "../format.js";
import { barChart, lineChart } from "../chart.js";
import { cut, shortNames } from "./_names.js";
import { decodedColumns } from "./_ranking.js";
import { own } from "./_values.js";
import { READINGS, TITLES, pictureOf } from "./_samples_words.js";

const MOST_EPOCHS = 24;

/**
 * @param {object} options
 * @param {(from: number, to: number) => Promise<object>} options.samplesOf Fetches the samples of a range of steps.
 * @param {object} options.theme
 * @returns {{element: HTMLElement, set: (spec: object) => void, destroy: () => void}} `set` takes the decoded `columns`, the
 *   `index` of the sample, and `images`, `texts`, `pushes`, `epochs`, `lastLayer`.
 */
export function sampleDetails({ samplesOf, theme }) {
  const element = h("section", { class: "figure v-details", "aria-label": "The chosen sample" });
  let shown = null;
  let opened = null;
  let charts = [];

  function set(spec) {
    const { columns, index } = spec;
    const id = String(columns.id[index]);
    const isSame = shown === id && element.dataset.stamp === stampOf(spec);
    if (isSame) return;
    shown = id;
    element.dataset.stamp = stampOf(spec);
    destroy();
    const label = columns.label[index];
    const room = h("div");
    replace(
      element,
      h("h3", { title: id }, `Sample ${cut(id, 80)}`, label === null ? null : `, class ${label}`),
      picture(spec, id),
      h("dl", { class: "v-numbers" }, numbers(columns, index, spec.lastLayer)),
      room,
    );
    drawPushes(room, spec, id);
    drawCourse(room, spec, id);
  }

  function drawPushes(room, { pushes }, id) {
    const shares = own(pushes, id);
    if (!shares?.length) return;
    const rest = 1 - shares.reduce((sum, [, share]) => sum + share, 0);
    const { short } = shortNames(shares.map(([layer]) => layer));
    const bars = shares.map(([, value], place) => ({ label: short[place], value }));
    if (rest > 0.005) bars.push({ label: "(all other layers)", value: rest });
    const chart = barChart(room, {
      title: "Layers that it pushes",
      note: "Each layer's share of the squared norm of the sample's own gradient.",
      name: `sample_${id}_layers`,
      bars,
      valueLabel: "share",
    });
    charts.push(chart);
  }

  function drawCourse(room, { epochs }, id) {
    if (epochs.length < 2) return;
    const place = h("div");
    const show = button(`Show it over ${Math.min(epochs.length, MOST_EPOCHS)} epochs`, read);
    room.append(show, place);
    // What was opened stays open as epochs are added.
    if (opened === id) read();

    async function read() {
      opened = id;
      show.disabled = true;
      show.textContent = "Reading …";
      try {
        const course = await courseOf(id, epochs, samplesOf);
        if (!place.isConnected) return;
        show.remove();
        charts.push(...lineCharts(place, id, course, theme));
      } catch (error) {
        show.disabled = false;
        show.textContent = `Try again: ${error.message}`;
      }
    }
  }

  function destroy() {
    for (const chart of charts) chart.destroy();
    charts = [];
  }

  return { element, set, destroy };
}

/** What makes two drawings of the same sample differ. */
function stampOf({ columns, index, epochs, isDark }) {
  return JSON.stringify([columns.step[index], columns.loss[index], columns.norm[index], epochs.length, isDark]);
}

function picture({ images, texts }, id) {
  const image = pictureOf(images, id);
  if (image) return h("img", { src: image, alt: `Sample ${id}`, class: "v-large" });
  const text = own(texts, id);
  if (text) return h("pre", { class: "v-text", tabindex: "0", "aria-label": `Text of sample ${id}` }, text);
  return h("p", { class: "note" }, "The sample itself is kept only while it stands on a leaderboard.");
}

function numbers(columns, index, lastLayer) {
  return Object.entries(READINGS).map(([name, reading]) => {
    const value = columns[name]?.[index];
    if (value === undefined || (name === "last_layer_norm" && !lastLayer)) return null;
    const title = name === "last_layer_norm" ? `gradient norm in ${lastLayer}` : TITLES[name];
    const text = name === "step" ? stepText(value) : number(value, 5);
    return h("div", { title: reading }, h("dt", null, title), h("dd", null, text));
  });
}

/** The sample's numbers at the end of each epoch that saw it; of many epochs, of some evenly between. */
async function courseOf(id, epochs, samplesOf) {
  const course = { step: [], loss: [], norm: [], alignment: [] };
  const count = Math.min(epochs.length, MOST_EPOCHS);
  for (let i = 0; i < count; i += 1) {
    const place = Math.round((i * (epochs.length - 1)) / (count - 1));
    const from = place > 0 ? epochs[place - 1].step + 1 : 0;
    const columns = decodedColumns((await samplesOf(from, epochs[place].step)).columns);
    const index = columns.id.findIndex((each) => String(each) === id);
    if (index < 0) continue;
    for (const name of Object.keys(course)) course[name].push(columns[name][index]);
  }
  return course;
}

function lineCharts(place, id, course, theme) {
  const lines = [
    ["loss", "Loss over epochs", true],
    ["norm", "Gradient norm over epochs", true],
    ["alignment", "Alignment with its batch over epochs", false],
  ];
  return lines.map(([name, title, log], at) =>
    lineChart(place, {
      title,
      name: `sample_${id}_${name}`,
      xLabel: "step",
      yLabel: TITLES[name],
      log: log && course[name].every((value) => value > 0),
      height: 170,
      series: [
        {
          label: `sample ${id}`,
          color: theme.token(`--series-${at + 1}`),
          x: Float64Array.from(course.step),
          value: Float64Array.from(course[name]),
        },
      ],
    }),
  );
}

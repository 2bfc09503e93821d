/**
 * Input saliency of images: each sample, and how much each output moves with each of its pixels.
 *
 * @module views/_saliency_images
 */

import { css } from "../colors.js";
import { csv, number } from "../format.js";
import { write } from "./_paint.js";
import { imagePixels, mapPixels } from "./_pixels.js";
import { decoded } from "./_values.js";

const MOST = 16;
const GAP = 8;
const BAR = 84;
const LARGEST = 150;
const ABOVE = 20;
const BELOW = 36;

/**
 * The figure's specification, for `picture`.
 *
 * @param {object} given `maps` and `things` (typed arrays with shapes), `saliency` (its record),
 *   `ids`, `theme`.
 */
export function imageSaliency({ maps, things, saliency, ids, theme }) {
  const [all, k, height, width] = maps.shape;
  const n = Math.min(all, MOST);
  const most = largest(maps.data);
  const scale = { colors: "sequential", log: false, low: 0, high: most || 1 };
  const samples = Array.from({ length: n }, (_, i) => described(i, saliency, ids));
  const mapOf = (i, c) => maps.data.subarray((i * k + c) * height * width, (i * k + c + 1) * height * width);
  const size = (room) => sizeOf(room, k, height, width);

  function paint(painter, room) {
    const parts = [];
    const { cell, pitch, drawn } = size(room);
    samples.forEach((sample, i) => {
      const top = ABOVE + i * (drawn[1] + ABOVE + BELOW);
      if (things) {
        const image = imagePixels(sliceOf(things, i), things.shape[1], things.shape[2], things.shape[3]);
        place(painter, image, [0, top, ...drawn], theme);
      }
      write(painter, sample.name, 0, top - 9, { weight: 600, color: theme.token("--text"), room: cell });
      write(painter, sample.label, 0, top + drawn[1] + 11, { color: theme.token("--text"), room: cell });
      write(painter, sample.guess, 0, top + drawn[1] + 25, { color: theme.token("--muted"), room: cell + GAP });
      sample.outputs.forEach((output, c) => {
        const left = (c + 1) * pitch;
        place(painter, mapPixels(mapOf(i, c), width, scale), [left, top, ...drawn], theme, output.isLabel);
        const weight = output.isLabel ? 700 : "normal";
        write(painter, output.head, left, top - 9, {
          weight,
          color: theme.token("--text"),
          room: cell + GAP - 2,
        });
        const value = { weight: output.isLargest ? 700 : "normal", color: theme.token("--text"), room: cell };
        write(
          painter,
          `${number(output.value)}${output.isLargest ? " ▲" : ""}`,
          left,
          top + drawn[1] + 11,
          value,
        );
        parts.push({
          x: left,
          y: top,
          width: drawn[0],
          height: drawn[1],
          text: read(sample, output, mapOf(i, c), width),
        });
      });
    });
    drawBar(painter, scale, most, {
      left: (k + 1) * pitch + 6,
      top: ABOVE,
      height: Math.min(Math.max(drawn[1], 90), 160),
      theme,
    });
    return parts;
  }

  return {
    heightOf: (room) => n * (size(room).drawn[1] + ABOVE + BELOW) + 6,
    paint,
    summary: `${n} samples by ${k} outputs, ${height} by ${width} pixels each. Largest derivative ${number(most)}. ${samples.map(({ name, label, guess }) => `${name}: ${label} ${guess}`).join("; ")}.`,
    note:
      "Left the sample, then for each output how much it moves with each pixel, ‖∂f/∂x‖ over channels: brighter is more, one scale for all. Below each map the output, ▲ the largest; framed is the label's." +
      (n < all ? ` The first ${n} of ${all} samples.` : ""),
    csv: () => rowsOf(samples, mapOf, width),
  };
}

/** A sample's captions, and those of its outputs. */
function described(i, { outputs, values, labels }, ids) {
  const label = labels[i] ?? null;
  const known = labels.filter((each) => each !== null);
  const noun = known.length && known.every((each) => /^\d+$/.test(each)) ? "class" : "output";
  const numbers = values[i].map(decoded);
  const most = Math.max(...numbers.filter(Number.isFinite));
  const all = outputs[i].map((output, c) => {
    const isLabel = String(output) === label;
    return {
      output,
      head: isLabel ? `label ${output}` : `${noun} ${output}`,
      value: numbers[c],
      isLabel,
      isLargest: numbers.length > 1 && numbers[c] === most,
    };
  });
  const guess = all.find((each) => each.isLargest)?.output;
  const isRight = String(guess) === label;
  return {
    name: String(ids[i] ?? `sample ${i}`),
    label: label === null ? "" : `label ${label}`,
    guess: guess === undefined || noun !== "class" ? "" : `predicts ${guess} ${isRight ? "✓" : "✗"}`,
    outputs: all,
  };
}

/** How large maps are drawn: enlarged by whole factors, or made to fit. */
function sizeOf(room, k, height, width) {
  const side = Math.max(24, Math.min(LARGEST, Math.floor((room - BAR) / (k + 1)) - GAP));
  const longest = Math.max(height, width);
  const factor = longest <= side ? Math.floor(side / longest) : side / longest;
  const drawn = [Math.max(1, Math.round(width * factor)), Math.max(1, Math.round(height * factor))];
  const cell = Math.max(drawn[0], Math.min(side, 92));
  return { cell, pitch: cell + GAP, drawn };
}

function place(painter, image, [left, top, width, height], theme, isFramed = false) {
  painter.imageSmoothingEnabled = image.width > width;
  painter.drawImage(image, left, top, width, height);
  painter.strokeStyle = theme.token(isFramed ? "--series-2" : "--line");
  painter.lineWidth = isFramed ? 3 : 1;
  painter.strokeRect(left, top, width, height);
}

function drawBar(painter, scale, most, { left, top, height, theme }) {
  for (let y = 0; y < height; y += 1) {
    painter.fillStyle = css(scale.colors, Math.round(255 * (1 - y / height)));
    painter.fillRect(left, top + y, 14, 1.5);
  }
  const ink = { color: theme.token("--text") };
  write(painter, most ? number(most) : "all zero", left + 19, top + 6, ink);
  write(painter, "0", left + 19, top + height - 5, ink);
  ["output", "per unit", "of input"].forEach((line, i) =>
    write(painter, line, left + 19, top + height / 2 + 14 * (i - 1), { color: theme.token("--muted") }),
  );
}

function read(sample, output, map, width) {
  let at = 0;
  map.forEach((value, i) => {
    if (value > map[at]) at = i;
  });
  const where = `row ${Math.floor(at / width) + 1}, column ${(at % width) + 1}`;
  return `Sample ${sample.name}, ${output.head}: output ${number(output.value)}; largest derivative ${number(map[at])} at ${where}`;
}

function rowsOf(samples, mapOf, width) {
  const rows = [["sample", "label", "output", "value", "row", "column", "derivative"]];
  samples.forEach((sample, i) =>
    sample.outputs.forEach((output, c) =>
      mapOf(i, c).forEach((value, at) =>
        rows.push([
          sample.name,
          sample.label.replace("label ", ""),
          output.output,
          output.value,
          Math.floor(at / width),
          at % width,
          value,
        ]),
      ),
    ),
  );
  return csv(rows);
}

function sliceOf({ data, shape }, i) {
  const size = shape.slice(1).reduce((product, extent) => product * extent, 1);
  return data.subarray(i * size, (i + 1) * size);
}

function largest(values) {
  let most = 0;
  for (const value of values) if (Number.isFinite(value) && value > most) most = value;
  return most;
}

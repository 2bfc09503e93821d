/**
 * A run's change of the loss, shared out among layers, as stacked bars over probes.
 *
 * @module views/_allocation
 */

import { csv, number, step as stepText } from "../format.js";
import { drawGlyph } from "../glyphs.js";
import { colorOf } from "./_marks.js";
import { shortNames } from "./_names.js";
import { scaleOf, write } from "./_paint.js";
import { signed } from "./_steps_apart.js";
import { placesWithin } from "./_values.js";

const LAYERS = 7;
const MOST_BARS = 96;
const PLOT = 280;
const GAP = "gap";

/**
 * The figure's specification, for `picture`; `null` where no step has an allocation.
 *
 * @param {{meta: object, arrays: object}} reply Of `/data/allocation`.
 * @param {[number|null, number|null]} range
 * @param {object} theme
 */
export function allocationFigure({ meta, arrays }, range, theme) {
  const places = thinned(placesWithin(arrays.step.data, range));
  if (!places.length || !meta.layers.length) return null;
  const parts = partsOf(meta, arrays, places.at(-1), theme);
  const bars = places.map((place) => barOf(place, parts, arrays));
  const last = bars.at(-1);
  const limits = [
    Math.min(0, ...bars.map((bar) => Math.min(bar.low, bar.change))),
    Math.max(0, ...bars.map((bar) => Math.max(bar.high, bar.change))),
  ];

  function paint(painter, width) {
    const top = legend(painter, parts, width, theme);
    const [left, right] = [70, width - 12];
    const ys = scaleOf(padded(limits), [top + PLOT, top], false, 5);
    for (const tick of ys.ticks) {
      painter.fillStyle = theme.token(tick === 0 ? "--muted" : "--grid");
      painter.fillRect(left, Math.round(ys.at(tick)), right - left, 1);
      write(painter, change(tick), left - 6, ys.at(tick), { align: "right", color: theme.token("--muted") });
    }
    const pitch = (right - left) / bars.length;
    const hits = [];
    bars.forEach((bar, i) => {
      const x = left + i * pitch + Math.max(0.5, pitch * 0.12);
      hits.push(
        ...stack(painter, bar, parts, { x, width: Math.max(1, Math.min(pitch * 0.76, 64)), ys, theme }),
      );
    });
    trueLine(painter, bars, { left, pitch, ys, theme });
    axis(painter, bars, { left, pitch, y: top + PLOT, right, theme });
    return hits;
  }

  return {
    title: `Who lowered the loss, from step ${stepText(last.since)} to ${stepText(last.step)}`,
    note: `For each probe, how the change of the loss since step ${stepText(last.since)} is shared out among layers: ∫ g·dθ along the way, on the same samples. Line: the true change, now ${change(last.change)}, to a loss of ${number(last.loss)}. The gap, ${change(last.gap)}, is what so few points of the way miss; probe more often to make it smaller.`,
    heightOf: () => legendRows(parts) * 20 + 14 + PLOT + 44,
    paint,
    summary: `Stacked bars. At step ${stepText(last.step)}: ${last.values.map((value, i) => `${parts[i].name} ${change(value)}`).join("; ")}; true change ${change(last.change)}.`,
    csv: () => rowsOf(meta, arrays),
  };
}

/** The layers with most allocated, the others together, and the gap. */
function partsOf(meta, arrays, last, theme) {
  const count = meta.layers.length;
  const sizes = Array.from({ length: count }, (_, i) => Math.abs(arrays.by_layer.data[last * count + i]) || 0);
  const largest = new Set([...sizes.keys()].sort((a, b) => sizes[b] - sizes[a]).slice(0, LAYERS));
  const { short } = shortNames(meta.layers);
  const chosen = meta.layers.map((_, i) => i).filter((i) => largest.has(i));
  const parts = chosen.map((i, place) => ({ name: short[i], layers: [i], color: colorOf(place, theme) }));
  const others = meta.layers.map((_, i) => i).filter((i) => !largest.has(i));
  if (others.length)
    parts.push({ name: `${others.length} others`, layers: others, color: theme.token("--series-8") });
  parts.push({ name: GAP, layers: null, color: theme.token("--hatch") });
  return parts;
}

function barOf(place, parts, arrays) {
  const count = arrays.by_layer.shape[1];
  const values = parts.map(({ layers }) =>
    layers
      ? layers.reduce((sum, i) => sum + (arrays.by_layer.data[place * count + i] || 0), 0)
      : arrays.gap.data[place],
  );
  const at = (name) => arrays[name].data[place];
  const finite = values.filter(Number.isFinite);
  const sum = (chosen) => finite.filter(chosen).reduce((total, value) => total + value, 0);
  return {
    values,
    step: at("step"),
    since: at("since"),
    change: at("change"),
    gap: at("gap"),
    loss: at("loss"),
    low: sum((value) => value < 0),
    high: sum((value) => value > 0),
  };
}

/** What lowers goes down from zero, what raises goes up. */
function stack(painter, bar, parts, { x, width, ys, theme }) {
  const ends = { down: 0, up: 0 };
  return bar.values.flatMap((value, i) => {
    if (!Number.isFinite(value) || value === 0) return [];
    const way = value < 0 ? "down" : "up";
    const [from, to] = [ys.at(ends[way]), ys.at(ends[way] + value)];
    ends[way] += value;
    const box = { x, y: Math.min(from, to), width, height: Math.max(Math.abs(to - from), 0.5) };
    painter.fillStyle = parts[i].color;
    painter.fillRect(box.x, box.y, box.width, box.height);
    if (!parts[i].layers) crossed(painter, box, theme);
    if (box.height > 3) {
      painter.strokeStyle = theme.token("--surface");
      painter.lineWidth = 0.8;
      painter.strokeRect(box.x, box.y, box.width, box.height);
    }
    return [
      {
        ...box,
        text: `Step ${stepText(bar.step)}, ${parts[i].name}: ${change(value)} of ${change(bar.change)}`,
      },
    ];
  });
}

function crossed(painter, { x, y, width, height }, theme) {
  painter.save();
  painter.beginPath();
  painter.rect(x, y, width, height);
  painter.clip();
  painter.strokeStyle = theme.token("--surface");
  painter.lineWidth = 1.4;
  painter.beginPath();
  for (let shift = -height; shift < width; shift += 6) {
    painter.moveTo(x + shift, y + height);
    painter.lineTo(x + shift + height, y);
  }
  painter.stroke();
  painter.restore();
}

function trueLine(painter, bars, { left, pitch, ys, theme }) {
  const middle = (i) =>
    left + i * pitch + Math.max(0.5, pitch * 0.12) + Math.max(1, Math.min(pitch * 0.76, 64)) / 2;
  for (const [width, color] of [
    [5, "--surface"],
    [2.2, "--text"],
  ]) {
    painter.strokeStyle = theme.token(color);
    painter.lineWidth = width;
    painter.beginPath();
    bars.forEach(({ change: value }, i) => painter[i ? "lineTo" : "moveTo"](middle(i), ys.at(value)));
    painter.stroke();
  }
  if (bars.length <= 40)
    bars.forEach(({ change: value }, i) =>
      drawGlyph(painter, "circle", middle(i), ys.at(value), 3.4, theme.token("--text")),
    );
}

function axis(painter, bars, { left, pitch, y, right, theme }) {
  const every = Math.max(1, Math.ceil(64 / pitch));
  bars.forEach((bar, i) => {
    if (i % every) return;
    const x = left + i * pitch + Math.max(0.5, pitch * 0.12) + Math.max(1, Math.min(pitch * 0.76, 64)) / 2;
    write(painter, stepText(bar.step), x, y + 14, { align: "center", color: theme.token("--muted") });
  });
  write(painter, "probed step", right, y + 32, { align: "right", color: theme.token("--text") });
  write(painter, "change of the loss so far", left - 62, y + 32, { color: theme.token("--text") });
}

function legend(painter, parts, width, theme) {
  const perRow = Math.ceil((parts.length + 1) / legendRows(parts));
  const room = width / perRow;
  [...parts, { name: "true change", isLine: true }].forEach((part, i) => {
    const [x, y] = [(i % perRow) * room, 10 + Math.floor(i / perRow) * 20];
    painter.fillStyle = part.isLine ? theme.token("--text") : part.color;
    painter.fillRect(x, part.isLine ? y - 1 : y - 5, 18, part.isLine ? 2.5 : 10);
    if (part.name === GAP) crossed(painter, { x, y: y - 5, width: 18, height: 10 }, theme);
    write(painter, part.name, x + 24, y, { color: theme.token("--text"), room: room - 30, keep: "ends" });
  });
  return legendRows(parts) * 20 + 14;
}

function legendRows(parts) {
  return Math.ceil((parts.length + 1) / 5);
}

function padded([low, high]) {
  const room = (high - low) * 0.04 || 1;
  return [low - (low < 0 ? room : 0), high + (high > 0 ? room : 0)];
}

function thinned(places) {
  if (places.length <= MOST_BARS) return places;
  const chosen = Array.from(
    { length: MOST_BARS },
    (_, i) => places[Math.round((i * (places.length - 1)) / (MOST_BARS - 1))],
  );
  return [...new Set(chosen)];
}

function rowsOf({ layers }, arrays) {
  const count = layers.length;
  const rows = Array.from(arrays.step.data, (step, place) => [
    step,
    arrays.since.data[place],
    ...arrays.by_layer.data.subarray(place * count, (place + 1) * count),
    arrays.gap.data[place],
    arrays.change.data[place],
    arrays.loss.data[place],
  ]);
  return csv([["step", "since", ...layers, "(gap)", "(true change)", "(loss)"], ...rows]);
}

function change(value) {
  return signed(value, number(value));
}

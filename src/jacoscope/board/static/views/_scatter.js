/**
 * Points by two numbers, told apart by class, to be picked by pointer or keys.
 *
 * @module views/_scatter
 */

import { h, replace } from "../dom.js";
import { frame } from "../export.js";
import { number } from "../format.js";
import { drawGlyph } from "../glyphs.js";
import { sharp } from "../heat_axes.js";
import { markOf } from "./_marks.js";
import { extent, onWidth, scaleOf, write } from "./_paint.js";

const NEAR = 12;
const MOST_NAMED = 24;

/**
 * @param {HTMLElement} container
 * @param {object} options
 * @param {string} options.title
 * @param {string} options.note
 * @param {string} options.name Of downloaded files.
 * @param {object} options.theme
 * @param {number} [options.height]
 * @param {(index: number) => void} [options.onPick] A point was clicked, or chosen with Enter.
 * @param {(text: string) => void} [options.announce] Says to screen readers what the keys reach.
 * @returns {{set: (spec: object) => void, destroy: () => void}} `set` takes `x`, `y` (numbers by
 *   point), `groups` (place in `names` by point), `names`, `xLabel`, `yLabel`, `logX`, `logY`,
 *   `diagonal`, `selected` (a point or −1), `describe(point)`, `summary` and `csv()`.
 */
export function scatter(container, { title, note, name, theme, height = 280, onPick, announce }) {
  const canvas = h("canvas", { class: "v-canvas", tabindex: "0", role: "img" });
  const readout = h("p", { class: "readout" });
  const legend = h("div", { class: "legend" });
  let spec = null;
  let layout = null;
  let at = -1;
  const { body } = frame(container, {
    title,
    note,
    name,
    png: () => {
      point(-1);
      return canvas;
    },
    csv: () => spec?.csv() ?? "",
  });
  body.append(canvas, legend, readout);
  const stop = onWidth(body, draw);

  function draw() {
    if (!spec || !body.clientWidth) return;
    layout = paint(canvas, spec, { width: body.clientWidth, height, theme, at });
  }

  function point(index) {
    at = index;
    readout.textContent = index >= 0 ? spec.describe(index) : (spec.hint ?? "");
    draw();
  }

  canvas.addEventListener("pointermove", (event) => point(nearest(layout, event)));
  canvas.addEventListener("pointerleave", () => point(-1));
  canvas.addEventListener("click", (event) => {
    const index = nearest(layout, event);
    if (index >= 0) onPick?.(index);
  });
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && at >= 0) onPick?.(at);
    else if (event.key === "Escape") point(-1);
    else if (!["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) return;
    else {
      point(stepped(layout, at >= 0 ? at : spec.selected, event.key));
      announce?.(readout.textContent);
    }
    event.preventDefault();
  });

  return {
    set(next) {
      spec = next;
      if (at >= spec.x.length) at = -1;
      canvas.setAttribute("aria-label", `${title}. ${spec.summary} Arrow keys go from point to point.`);
      const there = [...new Set(spec.groups)].sort((a, b) => a - b);
      const shown = there.length > 1 && there.length <= MOST_NAMED ? there : [];
      replace(
        legend,
        shown.map((place) => legendItem(spec.names[place], markOf(place, theme))),
      );
      point(at);
    },
    destroy: stop,
  };
}

/** A legend's entry: the mark and its name. */
function legendItem(text, mark) {
  const canvas = h("canvas", { "aria-hidden": "true" });
  drawGlyph(sharp(canvas, 14, 14), mark.shape, 7, 7, 4.5, mark.color);
  return h("span", { class: "legend-item" }, canvas, text);
}

function paint(canvas, spec, { width, height, theme, at }) {
  const painter = sharp(canvas, width, height);
  const [left, right, top, bottom] = [66, width - 12, 10, height - 40];
  const domain = spec.diagonal ? both(extent([...spec.x, ...spec.y], false)) : null;
  const xs = scaleOf(domain ?? extent(spec.x, spec.logX), [left, right], spec.logX, width < 420 ? 4 : 7);
  const ys = scaleOf(domain ?? extent(spec.y, spec.logY), [bottom, top], spec.logY, 5);
  drawAxes(painter, { xs, ys, left, right, top, bottom, spec, theme });
  if (spec.diagonal) drawDiagonal(painter, domain, xs, ys, theme);
  const places = Array.from(spec.x, (x, i) => [xs.at(x), ys.at(spec.y[i])]);
  const size = places.length > 2000 ? 2.2 : places.length > 300 ? 3.2 : 4.4;
  const marks = spec.names.map((_, place) => markOf(place, theme));
  places.forEach(([x, y], i) => {
    const { shape, color } = marks[spec.groups[i]];
    if (Number.isFinite(x + y)) drawGlyph(painter, shape, x, y, size, color);
  });
  for (const [index, radius] of [
    [spec.selected, size + 5],
    [at, size + 3],
  ]) {
    if (!places[index] || !Number.isFinite(places[index][0] + places[index][1])) continue;
    painter.strokeStyle = theme.token("--text");
    painter.lineWidth = index === spec.selected ? 2.2 : 1.4;
    painter.beginPath();
    painter.arc(...places[index], radius, 0, 2 * Math.PI);
    painter.stroke();
  }
  return { places };
}

function drawAxes(painter, { xs, ys, left, right, top, bottom, spec, theme }) {
  const [grid, muted] = [theme.token("--grid"), theme.token("--muted")];
  painter.fillStyle = grid;
  for (const tick of xs.ticks) {
    painter.fillStyle = grid;
    painter.fillRect(Math.round(xs.at(tick)), top, 1, bottom - top);
    write(painter, number(tick), xs.at(tick), bottom + 12, { align: "center", color: muted });
  }
  for (const tick of ys.ticks) {
    painter.fillStyle = grid;
    painter.fillRect(left, Math.round(ys.at(tick)), right - left, 1);
    write(painter, number(tick), left - 6, ys.at(tick), { align: "right", color: muted });
  }
  write(painter, spec.xLabel, right, bottom + 30, {
    align: "right",
    color: theme.token("--text"),
    room: right - left,
  });
  painter.save();
  painter.translate(10, top);
  painter.rotate(-Math.PI / 2);
  write(painter, spec.yLabel, 0, 0, { align: "right", color: theme.token("--text"), room: bottom - top });
  painter.restore();
}

function drawDiagonal(painter, [low, high], xs, ys, theme) {
  painter.strokeStyle = theme.token("--muted");
  painter.setLineDash([5, 4]);
  painter.lineWidth = 1.2;
  painter.beginPath();
  painter.moveTo(xs.at(low), ys.at(low));
  painter.lineTo(xs.at(high), ys.at(high));
  painter.stroke();
  painter.setLineDash([]);
}

function both([low, high]) {
  return [Math.min(low, 0), Math.max(high, 0)];
}

function nearest(layout, event) {
  let [best, distance] = [-1, NEAR * NEAR];
  layout?.places.forEach(([x, y], i) => {
    const d = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
    if (d < distance) [best, distance] = [i, d];
  });
  return best;
}

/** The next point to the left or right. */
function stepped(layout, from, key) {
  const drawn = layout.places.map(([x, y], i) => [x, y, i]).filter(([x, y]) => Number.isFinite(x + y));
  drawn.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  if (!drawn.length) return -1;
  const place = drawn.findIndex(([, , i]) => i === from);
  const last = drawn.length - 1;
  if (key === "Home") return drawn[0][2];
  if (key === "End") return drawn[last][2];
  if (place < 0) return drawn[key === "ArrowRight" ? 0 : last][2];
  return drawn[Math.max(0, Math.min(last, place + (key === "ArrowRight" ? 1 : -1)))][2];
}

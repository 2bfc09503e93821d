/**
 * Horizontal bars from zero, with labels and numbers.
 *
 * @module bars
 */

import { extent } from "./align.js";
import { h, replace } from "./dom.js";
import { frame } from "./export.js";
import { csv, number, unit as unitText } from "./format.js";
import { font, sharp } from "./heat_axes.js";
import { theme } from "./theme.js";

const BAR_HEIGHT = 11;
const NUMBER_WIDTH = 76;

/**
 * @typedef {object} BarSpec
 * @property {string} title
 * @property {string} [note]
 * @property {string} [name]
 * @property {{label: string, value: number, second?: number, group?: string}[]} bars
 * @property {string} valueLabel What `value` is; and with `unit`, the axis.
 * @property {string} [secondLabel] What `second` is, drawn hatched under `value`.
 * @property {string} [unit]
 */

/**
 * A bar chart at the end of `container`.
 *
 * @param {HTMLElement} container
 * @param {BarSpec} spec
 * @returns {{set: (spec: BarSpec) => void, destroy: () => void, canvas: HTMLCanvasElement}}
 */
export function barChart(container, spec) {
  let current = spec;
  const canvas = h("canvas", { role: "img" });
  const parts = frame(container, {
    title: spec.title,
    note: spec.note,
    name: spec.name ?? spec.title,
    png: () => picture(current, canvas.clientWidth),
    csv: () => table(current),
  });
  const holder = h("div", { class: "plot" }, canvas);
  replace(parts.body, holder);
  const draw = () => {
    if (holder.clientWidth > 0) paint(canvas, current, holder.clientWidth);
    canvas.setAttribute("aria-label", words(current));
  };
  const observer = new ResizeObserver(draw);
  observer.observe(holder);
  draw();
  return {
    canvas,
    set(next) {
      current = next;
      parts.setTitle(next.title, next.note ?? "");
      draw();
    },
    destroy() {
      observer.disconnect();
      parts.node.remove();
    },
  };
}

function paint(canvas, spec, width) {
  const hasSecond = spec.bars.some((bar) => bar.second !== undefined);
  const rowHeight = BAR_HEIGHT * (hasSecond ? 2 : 1) + 8;
  const head = 22;
  const context = sharp(canvas, width, head + spec.bars.length * rowHeight + 4);
  context.font = font();
  const widest = Math.max(...spec.bars.map((bar) => context.measureText(bar.label).width), 20);
  const left = Math.min(widest + 10, width * 0.4);
  const range = extent([spec.bars.flatMap((bar) => [bar.value, bar.second ?? 0, 0])]) ?? [0, 1];
  const span = range[1] - range[0] || 1;
  const room = width - left - NUMBER_WIDTH - 4;
  const place = (value) => left + ((value - range[0]) / span) * room;
  legend(context, spec, left, hasSecond);
  context.textBaseline = "middle";
  spec.bars.forEach((bar, index) => {
    const top = head + index * rowHeight;
    const middle = top + (rowHeight - 8) / 2;
    context.fillStyle = theme.token("--text");
    context.textAlign = "right";
    context.fillText(bar.label, left - 6, middle, left - 8);
    one(context, place, bar.value, top, theme.token("--series-1"), false);
    if (hasSecond) {
      one(context, place, bar.second, top + BAR_HEIGHT, theme.token("--series-2"), true);
    }
    context.fillStyle = theme.token("--text");
    context.textAlign = "right";
    context.fillText(number(bar.value), width - 2, hasSecond ? top + BAR_HEIGHT / 2 : middle);
    if (hasSecond) context.fillText(number(bar.second), width - 2, top + 1.5 * BAR_HEIGHT + 1);
  });
  context.fillStyle = theme.token("--muted");
  context.fillRect(Math.round(place(0)), head - 3, 1, spec.bars.length * rowHeight);
}

function one(context, place, value, top, color, isOutlined) {
  if (!Number.isFinite(value)) return;
  const [from, to] = [place(0), place(value)].sort((a, b) => a - b);
  context.fillStyle = context.strokeStyle = color;
  context.lineWidth = 1;
  if (isOutlined) {
    context.strokeRect(from + 0.5, top + 1.5, Math.max(to - from - 1, 0.5), BAR_HEIGHT - 3);
  } else context.fillRect(from, top + 0.5, Math.max(to - from, 1), BAR_HEIGHT - 1);
}

function legend(context, spec, left, hasSecond) {
  context.textBaseline = "middle";
  context.textAlign = "left";
  const axis = `${spec.valueLabel}${spec.unit && spec.unit !== "1" ? ` [${spec.unit}]` : ""}`;
  context.fillStyle = theme.token("--series-1");
  context.fillRect(left, 4, 10, 8);
  context.fillStyle = theme.token("--muted");
  context.fillText(axis, left + 15, 9);
  if (!hasSecond) return;
  const next = left + 15 + context.measureText(axis).width + 16;
  context.strokeStyle = theme.token("--series-2");
  context.strokeRect(next + 0.5, 4.5, 9, 7);
  context.fillText(spec.secondLabel ?? "second", next + 15, 9);
}

function words(spec) {
  const bars = spec.bars.slice(0, 12).map((bar) => {
    const second =
      bar.second === undefined ? "" : `, ${spec.secondLabel ?? "second"} ${number(bar.second)}`;
    return `${bar.label}: ${number(bar.value)}${unitText(spec.unit)}${second}`;
  });
  const more = spec.bars.length - bars.length;
  return `${spec.title}. Bar chart of ${spec.valueLabel}. ${bars.join("; ")}${more > 0 ? `; and ${more} more` : ""}.`;
}

function picture(spec, width) {
  const canvas = h("canvas");
  paint(canvas, spec, Math.max(width, 320));
  canvas.dataset.ratio = String(window.devicePixelRatio);
  return canvas;
}

function table(spec) {
  const hasSecond = spec.bars.some((bar) => bar.second !== undefined);
  const head = ["label", spec.valueLabel, ...(hasSecond ? [spec.secondLabel ?? "second"] : [])];
  return csv([
    head,
    ...spec.bars.map((bar) => [bar.label, bar.value, ...(hasSecond ? [bar.second] : [])]),
  ]);
}

/**
 * The table of two runs, with a bar for each row.
 *
 * @module views/_compare_table
 */

import { breakable, h, replace, svg } from "../dom.js";
import { csv, number } from "../format.js";
import { font, sharp } from "../heat_axes.js";
import { theme } from "../theme.js";

const BAR = { width: 220, height: 16 };
const ROW = 20;

/**
 * Draw the table into `container`.
 *
 * @param {HTMLElement} container
 * @param {object} spec `rows` of `joined`, `isRatio`, labels `a` and `b`, `unit`, `chosen` (a row's
 *   name), `onChoose(name)`.
 */
export function drawTable(container, spec) {
  const { rows, a, b, isRatio } = spec;
  const most = largest(rows);
  const active = container.contains(document.activeElement)
    ? document.activeElement.dataset.key
    : null;
  const top = container.firstChild?.scrollTop ?? 0;
  const head = [
    h("th", { scope: "col" }, "Layer"),
    h("th", { scope: "col", class: "num", title: a }, "A"),
    h("th", { scope: "col", class: "num", title: b }, "B"),
    h("th", { scope: "col", class: "num" }, isRatio ? "B ÷ A" : "B − A"),
    h("th", { scope: "col" }, scaleHead(most, isRatio)),
    h("th", { scope: "col" }, "Mark"),
  ];
  replace(
    container,
    h(
      "div",
      {
        class: "table-scroll compare-scroll",
        tabindex: "0",
        role: "group",
        "aria-label": "Layers of both runs",
      },
      h(
        "table",
        { class: "grid compare", "aria-label": `A: ${a}, B: ${b}` },
        h("thead", null, h("tr", null, head)),
        h(
          "tbody",
          null,
          rows.map((row) => line(row, most, spec)),
        ),
      ),
    ),
  );
  container.firstChild.scrollTop = top;
  if (active) {
    [...container.querySelectorAll("[data-key]")]
      .find((node) => node.dataset.key === active)
      ?.focus();
  }
}

/** The table as CSV. */
export function tableCsv({ rows, a, b, isRatio }) {
  const head = ["layer", `A: ${a}`, `B: ${b}`, isRatio ? "log2_ratio" : "difference", "mark"];
  return csv([
    head,
    ...rows.map((row) => [
      row.name,
      row.a?.value ?? null,
      row.b?.value ?? null,
      row.change,
      markOf(row).text,
    ]),
  ]);
}

/** The table as a picture. */
export function tablePicture({ rows, a, b, isRatio }) {
  const canvas = h("canvas");
  const pen = canvas.getContext("2d");
  pen.font = font();
  const wide = (texts, most) =>
    Math.min(Math.max(...texts.map((text) => pen.measureText(text).width), 30) + 16, most);
  const names = wide(
    rows.map((row) => row.name),
    340,
  );
  const [first, second] = [a, b].map((label, at) =>
    wide([`${"AB"[at]}: ${label}`, "−0.00e-00"], 200),
  );
  const changes = 90;
  const height = (rows.length + 1) * ROW + 6;
  const context = sharp(
    canvas,
    names + first + second + changes + BAR.width + 30,
    Math.min(height, 8000),
  );
  canvas.dataset.ratio = String(window.devicePixelRatio);
  context.font = font();
  context.textBaseline = "middle";
  const ends = [names, names + first, names + first + second, names + first + second + changes];
  const write = (texts, y, color) => {
    context.fillStyle = color;
    context.textAlign = "left";
    context.fillText(texts[0], 0, y, names - 8);
    context.textAlign = "right";
    texts
      .slice(1)
      .forEach((text, place) =>
        context.fillText(text, ends[place + 1] - 10, y, ends[place + 1] - ends[place] - 10),
      );
  };
  const most = largest(rows);
  write(
    ["Layer", `A: ${a}`, `B: ${b}`, isRatio ? "B ÷ A" : "B − A"],
    ROW / 2,
    theme.token("--muted"),
  );
  rows.forEach((row, place) => {
    const y = (place + 1.5) * ROW;
    write(
      [row.name, sideText(row.a), sideText(row.b), changeText(row, isRatio)],
      y,
      theme.token("--text"),
    );
    const { from, width } = barOf(row.change, most);
    context.fillStyle = theme.token(row.change < 0 ? "--series-2" : "--series-1");
    context.fillRect(ends[3] + from, y - 5, width, 10);
    context.fillStyle = theme.token("--text");
    context.textAlign = "left";
    context.fillText(markOf(row).sign, ends[3] + BAR.width + 8, y);
  });
  context.fillStyle = theme.token("--muted");
  context.fillRect(Math.round(ends[3] + BAR.width / 2), ROW, 1, height - ROW);
  return canvas;
}

function line(row, most, { isRatio, chosen, onChoose }) {
  const mark = markOf(row);
  const isChosen = row.name === chosen;
  const name = h(
    "button",
    {
      type: "button",
      class: "link",
      "aria-pressed": String(isChosen),
      "aria-label": `Show curves of ${row.name}`,
      "data-key": `row ${row.name}`,
      on: { click: () => onChoose(row.name) },
    },
    breakable(row.name),
  );
  return h(
    "tr",
    { class: isChosen ? "chosen" : null, "data-row": row.name },
    h("th", { scope: "row" }, name),
    h("td", { class: "num" }, sideText(row.a)),
    h("td", { class: "num" }, sideText(row.b)),
    h("td", { class: "num" }, changeText(row, isRatio)),
    h("td", { class: "bar-cell" }, bar(row, most)),
    h(
      "td",
      { class: mark.isOnly ? "mark only" : "mark" },
      mark.sign ? h("span", { "aria-hidden": "true" }, `${mark.sign} `) : null,
      mark.text,
    ),
  );
}

function bar({ change }, most) {
  const { from, width } = barOf(change, most);
  return svg(
    "svg",
    { width: BAR.width, height: BAR.height, "aria-hidden": "true", focusable: "false" },
    svg("line", { x1: BAR.width / 2, x2: BAR.width / 2, y1: 0, y2: BAR.height, class: "bar-zero" }),
    width > 0
      ? svg("rect", {
          x: from,
          y: 3,
          width,
          height: BAR.height - 6,
          class: change < 0 ? "bar-less" : "bar-more",
        })
      : null,
  );
}

/** Infinite changes, from or to zero, reach the end. */
function barOf(change, most) {
  if (Number.isNaN(change)) return { from: BAR.width / 2, width: 0 };
  const share = Math.min(Math.abs(change) / most, 1);
  const width = share * (BAR.width / 2 - 2);
  return { from: change < 0 ? BAR.width / 2 - width : BAR.width / 2, width };
}

function scaleHead(most, isRatio) {
  const end = isRatio ? number(2 ** most, 2) : number(most);
  return h(
    "span",
    { class: "bar-scale", style: { width: `${BAR.width}px` } },
    h("span", null, isRatio ? `÷ ${end}` : `−${end}`),
    h("span", null, isRatio ? "equal" : "0"),
    h("span", null, isRatio ? `× ${end}` : `+${end}`),
  );
}

function largest(rows) {
  const sizes = rows.map((row) => Math.abs(row.change)).filter(Number.isFinite);
  return Math.max(...sizes, 0) || 1;
}

function sideText(side) {
  if (side === null) return "no such row";
  const value = Number.isFinite(side.value) ? number(side.value) : "";
  return [value, side.fault].filter(Boolean).join(", ") || "no value";
}

function changeText({ change }, isRatio) {
  if (Number.isNaN(change)) return "—";
  return isRatio ? `× ${number(2 ** change)}` : number(change);
}

/** What sets a row apart, as a sign and in words. */
function markOf({ a, b, isMarked }) {
  if (a === null) return { sign: "◨", text: "only in B", isOnly: true };
  if (b === null) return { sign: "◧", text: "only in A", isOnly: true };
  if (a.fault || b.fault) return { sign: "✕", text: "not finite" };
  if (!isMarked) return { sign: "", text: "" };
  if (a.value * b.value < 0) return { sign: "±", text: "other sign" };
  const isLess = Math.abs(b.value) < Math.abs(a.value);
  return isLess ? { sign: "▼", text: "less than half" } : { sign: "▲", text: "more than double" };
}

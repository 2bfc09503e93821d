/**
 * A step's change of the loss as a waterfall: what each layer did alone, and what it had promised.
 *
 * @module views/_waterfall
 */

import { csv, number } from "../format.js";
import { drawGlyph } from "../glyphs.js";
import { scaleOf, widthOf, write } from "./_paint.js";
import { selectedShares, signed, summed } from "./_steps_apart.js";

const ROW = 26;
const HEAD = 62;
const FOOT = 40;
const COLUMN = 100;
const NAMES = 230;

/**
 * The figure's specification, for `picture`.
 *
 * @param {object} step What `takenApart` returns.
 * @param {{bySize: boolean, all: boolean, theme: object}} options
 */
export function waterfall(step, { bySize, all, theme }) {
  const rows = rowsOf(step, selectedShares(step.layers, { bySize, all }));
  const hasSecond = Number.isFinite(step.curved);
  const columns = [
    ["actual", "did alone"],
    ["predicted", "promised"],
    ...(hasSecond ? [["curved", "2nd order too"]] : []),
  ];

  function paint(painter, width) {
    const ink = theme.token("--text");
    const left = Math.min(NAMES, width * 0.3, 12 + Math.max(...rows.map(({ name }) => widthOf(painter, name))));
    const right = width - columns.length * COLUMN - 6;
    const xs = scaleOf(limits(rows), [left + 4, right - 8], false, width < 900 ? 4 : 6);
    legend(painter, hasSecond, theme);
    columns.forEach(([, head], place) =>
      write(painter, head, right + (place + 1) * COLUMN, HEAD - 14, {
        align: "right",
        color: theme.token("--muted"),
      }),
    );
    axis(painter, xs, { top: HEAD, bottom: HEAD + rows.length * ROW, theme });
    return rows.map((row, place) => {
      const middle = HEAD + (place + 0.5) * ROW;
      write(painter, row.name, left - 6, middle, {
        align: "right",
        color: ink,
        weight: row.isWhole ? 600 : "normal",
        room: left - 8,
        keep: "ends",
      });
      bar(painter, row, xs, { middle, isLast: place === rows.length - 1, theme });
      if (!row.isStart) {
        columns.forEach(([key], column) =>
          write(painter, change(row[key]), right + (column + 1) * COLUMN, middle, {
            align: "right",
            color: ink,
          }),
        );
      }
      return { x: left, y: middle - ROW / 2, width: right - left, height: ROW, text: row.text };
    });
  }

  return {
    heightOf: () => HEAD + rows.length * ROW + FOOT,
    paint,
    summary: `Waterfall. ${rows.map(({ text }) => text).join(" ")}`,
    csv: () =>
      csv([
        ["layer", "actual", "predicted", "second_order"],
        ...step.layers.map((share) => [share.layer, share.actual, share.predicted, share.second]),
        ["(interaction)", step.interaction, 0, NaN],
        ["(all)", step.actual, step.predicted, step.curved - step.predicted],
      ]),
  };
}

function rowsOf(step, { shown, others }) {
  const rows = [
    {
      name: "loss before",
      isStart: true,
      isWhole: true,
      start: 0,
      actual: 0,
      text: `The loss before: ${number(step.before, 5)}.`,
    },
  ];
  const add = (share, text) => rows.push({ ...share, start: end(rows.at(-1)), text });
  for (const share of [...shown, ...(others ? [others] : [])]) {
    add(share, `${share.layer}: did ${change(share.actual)} alone, had promised ${change(share.predicted)}.`);
  }
  const every = summed("", step.layers);
  const together = { name: "interaction of layers", actual: step.interaction, predicted: NaN, curved: NaN };
  add(together, `What layers do together, the interaction: ${change(step.interaction)}.`);
  const whole = {
    name: "loss after",
    isWhole: true,
    actual: step.actual,
    predicted: every.predicted,
    curved: step.curved,
    start: 0,
  };
  rows.push({
    ...whole,
    text: `The loss after: ${number(step.after, 5)}, a change of ${change(step.actual)}; all had promised ${change(every.predicted)}.`,
  });
  return rows;
}

function end({ start, actual }) {
  return start + (Number.isFinite(actual) ? actual : 0);
}

/** Room for every bar, and for marks that are not far off. */
function limits(rows) {
  const ends = rows.flatMap((row) => [row.start, end(row)]);
  let [low, high] = [Math.min(...ends), Math.max(...ends)];
  const span = high - low || 1;
  const marks = rows.flatMap(({ start, predicted, curved }) => [start + predicted, start + curved]);
  for (const near of marks.filter((each) => each >= low - span && each <= high + span)) {
    [low, high] = [Math.min(low, near), Math.max(high, near)];
  }
  const room = (high - low) * 0.04 || Math.abs(high) || 1;
  return [low - room, high + room];
}

function bar(painter, row, xs, { middle, isLast, theme }) {
  const [from, to] = [xs.at(row.start), xs.at(end(row))];
  const height = row.isWhole ? 8 : 15;
  painter.fillStyle = theme.token(
    row.isWhole || !row.actual ? "--muted" : row.actual < 0 ? "--series-1" : "--series-2",
  );
  if (!row.actual) painter.fillRect(from - 1, middle - 8, 2, 16);
  else painter.fillRect(Math.min(from, to), middle - height / 2, Math.max(Math.abs(to - from), 1.5), height);
  // Raising is hatched too, so that it is not told from lowering by colour alone.
  if (!row.isWhole && row.actual > 0) stripes(painter, [from, to], middle, height, theme);
  if (!isLast) {
    painter.strokeStyle = theme.token("--muted");
    painter.setLineDash([2, 2]);
    painter.lineWidth = 1;
    painter.beginPath();
    painter.moveTo(to, middle + height / 2);
    painter.lineTo(to, middle + ROW - 8);
    painter.stroke();
    painter.setLineDash([]);
  }
  for (const [value, shape] of [
    [row.predicted, "diamond"],
    [row.curved, "circle"],
  ]) {
    if (Number.isFinite(value)) mark(painter, shape, xs.at(row.start + value), middle, theme);
  }
}

/** A promise: a diamond by the derivative, a dot where the second order is in it. */
function mark(painter, shape, x, y, theme) {
  drawGlyph(painter, shape, x, y, shape === "circle" ? 4.2 : 6, theme.token("--surface"));
  drawGlyph(painter, shape, x, y, shape === "circle" ? 2.8 : 4.2, theme.token("--text"));
}

function stripes(painter, [from, to], middle, height, theme) {
  painter.save();
  painter.beginPath();
  painter.rect(Math.min(from, to), middle - height / 2, Math.abs(to - from), height);
  painter.clip();
  painter.strokeStyle = theme.token("--surface");
  painter.lineWidth = 1.5;
  painter.beginPath();
  for (let x = Math.min(from, to) - height; x < Math.max(from, to); x += 7) {
    painter.moveTo(x, middle + height / 2);
    painter.lineTo(x + height, middle - height / 2);
  }
  painter.stroke();
  painter.restore();
}

function axis(painter, xs, { top, bottom, theme }) {
  for (const tick of xs.ticks) {
    painter.fillStyle = theme.token(tick === 0 ? "--muted" : "--grid");
    painter.fillRect(Math.round(xs.at(tick)), top, 1, bottom - top);
    write(painter, change(tick), xs.at(tick), bottom + 11, { align: "center", color: theme.token("--muted") });
  }
  write(painter, "change of the loss since before the step", xs.at(xs.ticks[0]), bottom + 29, {
    color: theme.token("--text"),
  });
}

function legend(painter, hasSecond, theme) {
  let x = 2;
  const y = 12;
  const say = (text) => {
    write(painter, text, x, y, { color: theme.token("--text") });
    x += widthOf(painter, text) + 20;
  };
  for (const [text, color] of [
    ["lowered the loss", "--series-1"],
    ["raised it", "--series-2"],
  ]) {
    painter.fillStyle = theme.token(color);
    painter.fillRect(x, y - 5, 20, 10);
    if (color === "--series-2") stripes(painter, [x, x + 20], y, 10, theme);
    x += 26;
    say(text);
  }
  const marks = [
    ["diamond", "promised by its derivative"],
    ...(hasSecond ? [["circle", "promised with the second order"]] : []),
  ];
  for (const [shape, text] of marks) {
    mark(painter, shape, x + 5, y, theme);
    x += 15;
    say(text);
  }
}

function change(value) {
  return signed(value, number(value));
}

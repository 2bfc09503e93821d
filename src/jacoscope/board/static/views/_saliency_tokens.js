/**
 * Input saliency of sequences: each token shaded by how much the outputs move with it.
 *
 * @module views/_saliency_tokens
 */

import { css, level } from "../colors.js";
import { csv, number } from "../format.js";
import { write } from "./_paint.js";
import { isBright } from "./_pixels.js";

const MOST = 16;
const NAMED = 256;
const BOX = { width: 46, height: 34 };
const SMALL = { width: 10, height: 18 };
const HEAD = 24;
const TAIL = 14;

/**
 * The figure's specification, for `picture`.
 *
 * @param {object} given `maps` (n, 1, T), `things` (token ids, n × T, or nothing), `saliency`, `ids`, `theme`.
 */
export function tokenSaliency({ maps, things, saliency, ids, theme }) {
  const [all, , places] = maps.shape;
  const n = Math.min(all, MOST);
  const valuesOf = (i) => maps.data.subarray(i * places, (i + 1) * places);
  const tokenOf = (i, t) => (things ? String(things.data[i * places + t]) : `t${t}`);
  const most = maps.data.reduce((high, value) => (Number.isFinite(value) && value > high ? value : high), 0);
  const scale = { colors: "sequential", log: false, low: 0, high: most || 1 };
  const box = places <= NAMED ? BOX : SMALL;
  const layout = (room) => {
    const perRow = Math.max(1, Math.floor(room / box.width));
    return { perRow, pitch: HEAD + Math.ceil(places / perRow) * box.height + TAIL };
  };
  const headOf = (i) => {
    const label = saliency.labels[i];
    return `Sample ${ids[i] ?? i}${label === null || label === undefined ? "" : `, label ${label}`}`;
  };
  const thing = things ? "token" : "place";

  function paint(painter, room) {
    const { perRow, pitch } = layout(room);
    const parts = [];
    for (let i = 0; i < n; i += 1) {
      write(painter, headOf(i), 0, i * pitch + 12, { weight: 600, color: theme.token("--text"), room });
      valuesOf(i).forEach((value, t) => {
        const [x, y] = [(t % perRow) * box.width, i * pitch + HEAD + Math.floor(t / perRow) * box.height];
        drawToken(painter, { x, y, value, name: tokenOf(i, t) });
        parts.push({
          x,
          y,
          width: box.width - 2,
          height: box.height - 2,
          text: `${headOf(i)}, place ${t}, ${thing} ${tokenOf(i, t)}: ${number(value)}`,
        });
      });
    }
    return parts;
  }

  function drawToken(painter, { x, y, value, name }) {
    const isFinite = Number.isFinite(value);
    const at = isFinite ? Math.max(0, level(scale, value)) : 0;
    painter.fillStyle = isFinite ? css("sequential", at) : theme.token("--hatch");
    painter.fillRect(x, y, box.width - 2, box.height - 2);
    if (box === SMALL) return;
    const ink = {
      align: "center",
      color: isFinite && !isBright("sequential", at) ? "#fff" : "#000",
      room: box.width - 5,
    };
    write(painter, name, x + box.width / 2 - 1, y + 10, { ...ink, weight: 600 });
    write(painter, number(value), x + box.width / 2 - 1, y + 23, ink);
  }

  const sketched = saliency.is_sketched ? " Estimates from random cotangents." : "";
  const named =
    box === BOX
      ? `Each box is a ${thing}${things ? ", by its id" : ""}: below it`
      : `Each box is a ${thing}: its shade is`;
  return {
    heightOf: (room) => n * layout(room).pitch,
    paint,
    summary: `${n} samples of ${places} places. Largest ${number(most)}.`,
    note: `${named} ‖∂f/∂x_t‖, how much all outputs together move with it${things ? ", at its embedding" : ""}; brighter is more, from 0 to ${number(most)} for all samples.${sketched}${n < all ? ` The first ${n} of ${all} samples.` : ""}`,
    csv: () => {
      const rows = [["sample", "label", "place", "token", "derivative"]];
      for (let i = 0; i < n; i += 1) {
        valuesOf(i).forEach((value, t) =>
          rows.push([ids[i] ?? i, saliency.labels[i], t, things ? tokenOf(i, t) : null, value]),
        );
      }
      return csv(rows);
    },
  };
}

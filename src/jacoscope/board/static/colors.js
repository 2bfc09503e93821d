/**
 * Colour maps that colour-blind readers can read, and scales from values onto them.
 *
 * @module colors
 */

const VIRIDIS = [
  "#440154",
  "#482475",
  "#414487",
  "#355f8d",
  "#2a788e",
  "#21918c",
  "#22a884",
  "#44bf70",
  "#7ad151",
  "#bddf26",
  "#fde725",
];
const BLUE_RED = [
  "#053061",
  "#2166ac",
  "#4393c3",
  "#92c5de",
  "#d1e5f0",
  "#f7f7f7",
  "#fddbc7",
  "#f4a582",
  "#d6604d",
  "#b2182b",
  "#67001f",
];
const LEVELS = 256;

/** 256 colours as [r, g, b] bytes in a row. */
export const MAPS = { sequential: table(VIRIDIS), diverging: table(BLUE_RED) };

/**
 * Where values stand on a colour map.
 *
 * @typedef {object} Scale
 * @property {"sequential"|"diverging"} colors
 * @property {boolean} log
 * @property {number} low Value at the beginning of the map.
 * @property {number} high Value at its end.
 */

/**
 * A scale over all finite values: symmetric about zero for diverging colours, over positive values
 * for logarithmic ones.
 *
 * @param {[number, number]|null} range Lowest and highest value.
 * @param {{log?: boolean, colors?: string}} options
 * @returns {Scale}
 */
export function scaleOf(range, { log = false, colors = "sequential" }) {
  let [low, high] = range ?? (log ? [0.1, 1] : [0, 1]);
  if (colors === "diverging") {
    const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
    [low, high] = [-most, most];
  } else if (low === high) {
    [low, high] = log
      ? [low / 2, high * 2]
      : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  }
  return { colors, log: log && colors === "sequential", low, high };
}

/** The level, 0 to 255, of a value; -1 for what the scale has no place for. */
export function level(scale, value) {
  let share;
  if (scale.log) {
    if (!(value > 0)) return -1;
    share = Math.log(value / scale.low) / Math.log(scale.high / scale.low);
  } else {
    share = (value - scale.low) / (scale.high - scale.low);
  }
  if (!(share > 0)) return 0;
  return share >= 1 ? LEVELS - 1 : (share * LEVELS) | 0;
}

/** The value at a share (0 to 1) of a scale. */
export function valueAt(scale, share) {
  if (scale.log) return scale.low * (scale.high / scale.low) ** share;
  return scale.low + share * (scale.high - scale.low);
}

/** The CSS colour of a level of a map. */
export function css(colors, at) {
  const map = MAPS[colors];
  return `rgb(${map[3 * at]} ${map[3 * at + 1]} ${map[3 * at + 2]})`;
}

function table(stops) {
  const parsed = stops.map((text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)));
  const map = new Uint8ClampedArray(3 * LEVELS);
  for (let index = 0; index < LEVELS; index += 1) {
    const place = (index / (LEVELS - 1)) * (parsed.length - 1);
    const before = Math.min(Math.floor(place), parsed.length - 2);
    const share = place - before;
    for (let channel = 0; channel < 3; channel += 1) {
      map[3 * index + channel] =
        parsed[before][channel] * (1 - share) + parsed[before + 1][channel] * share;
    }
  }
  return map;
}

/**
 * Names of layers, made short enough to stand beside a bar.
 *
 * @module views/_names
 */

/**
 * Names without the dotted beginning that all of them share. Rows in brackets, such as
 * `(not watched)`, are not layers and stay as they are.
 *
 * @param {string[]} names
 * @returns {{prefix: string, short: string[]}} `prefix` without its last dot, empty where there is none.
 */
export function shortNames(names) {
  const paths = names.filter(isLayer).map((name) => name.split("."));
  let shared = 0;
  const shortest = Math.min(...paths.map((path) => path.length - 1));
  if (paths.length > 1) {
    while (shared < shortest && paths.every((path) => path[shared] === paths[0][shared])) shared += 1;
  }
  const prefix = shared > 0 ? paths[0].slice(0, shared).join(".") : "";
  const short = names.map((name) => (isLayer(name) && prefix ? name.slice(prefix.length + 1) : name));
  return { prefix, short };
}

/** A text's beginning, or the end of a layer's name, which tells more than its beginning. */
export function cut(text, length, keep = "start") {
  if (text.length <= length) return text;
  const kept = Math.max(1, length - 1);
  return keep === "start" ? `${text.slice(0, kept)}…` : `…${text.slice(-kept)}`;
}

function isLayer(name) {
  return !name.startsWith("(");
}

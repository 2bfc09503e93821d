/**
 * What is shown, kept in the address so that a link restores it.
 *
 * TensorBoard shows plugins in a frame; their state lives in the hash of the page around it, as
 * `#jacoscope&p.jacoscope.KEY=VALUE`, its own convention. On a page of its own, the hash is that of
 * the page itself.
 *
 * @module state
 */

const PLUGIN = "jacoscope";
const PREFIX = `p.${PLUGIN}.`;

const holder = outermost();
const values = new Map();
const listeners = new Set();

export const state = {
  /**
   * @param {string} key
   * @returns {string|null}
   */
  get: (key) => values.get(key) ?? null,

  /** A value that was set as JSON; `fallback` where it is absent or a damaged link. */
  getJson(key, fallback = null) {
    try {
      return JSON.parse(values.get(key) ?? "null") ?? fallback;
    } catch {
      return fallback;
    }
  },

  /** A value as a finite number, or `null`. */
  getNumber(key) {
    const text = values.get(key) ?? "";
    const value = Number(text);
    return text.trim() !== "" && Number.isFinite(value) ? value : null;
  },

  /** A value as a step: a whole number from 0; `null` where it is absent or a damaged link. */
  getStep(key) {
    const text = values.get(key) ?? "";
    return /^\d{1,15}$/.test(text) ? Number(text) : null;
  },

  /**
   * Change some keys and tell the subscribers which.
   *
   * @param {Object<string, string|number|null>} changes `null` removes a key.
   */
  set(changes) {
    const changed = new Set();
    for (const [key, value] of Object.entries(changes)) {
      const text = value === null || value === undefined ? undefined : String(value);
      if (values.get(key) === text) continue;
      if (text === undefined) values.delete(key);
      else values.set(key, text);
      changed.add(key);
    }
    if (changed.size === 0) return;
    write();
    tell(changed);
  },

  /**
   * @param {(changed: Set<string>) => void} listener
   * @returns {() => void} Ends the subscription.
   */
  subscribe(listener) {
    listeners.add(listener);
    return () => listeners.delete(listener);
  },

  /** The address that restores what is shown. */
  link() {
    const url = new URL(holder.location.href);
    url.hash = hash();
    return url.href;
  },
};

/** Read the address, and follow it from now on. */
export function startState() {
  adopt();
  holder.addEventListener("hashchange", () => {
    const { tab, entries } = parse();
    if (tab !== null && tab !== PLUGIN) return;
    // Coming back from another tab, TensorBoard may have dropped the state: it goes on as it was.
    if (entries.size === 0) write();
    else tell(adopt());
  });
}

function outermost() {
  try {
    // Reading it throws where the page around this one is from another origin.
    return window.parent.location.href ? window.parent : window;
  } catch {
    return window;
  }
}

function parse() {
  let tab = null;
  const entries = new Map();
  for (const piece of holder.location.hash.slice(1).split("&")) {
    const at = piece.indexOf("=");
    if (at < 0) {
      if (piece !== "") tab = decoded(piece);
      continue;
    }
    const key = decoded(piece.slice(0, at));
    if (key.startsWith(PREFIX)) entries.set(key.slice(PREFIX.length), decoded(piece.slice(at + 1)));
  }
  return { tab, entries };
}

function adopt() {
  const { entries } = parse();
  const changed = new Set();
  for (const key of new Set([...values.keys(), ...entries.keys()])) {
    if (values.get(key) !== entries.get(key)) changed.add(key);
  }
  values.clear();
  for (const [key, value] of entries) values.set(key, value);
  return changed;
}

function write() {
  // Unlike an assignment, this raises no event and adds no entry to the history at each change.
  holder.history.replaceState(holder.history.state, "", hash());
}

function hash() {
  const others = holder.location.hash
    .slice(1)
    .split("&")
    .filter((piece) => piece.includes("=") && !decoded(piece).startsWith(PREFIX));
  const own = [...values].map(
    ([key, value]) => `${encodeURIComponent(PREFIX + key)}=${encodeURIComponent(value)}`,
  );
  return `#${[PLUGIN, ...others, ...own].join("&")}`;
}

function tell(changed) {
  if (changed.size === 0) return;
  for (const listener of [...listeners]) listener(changed);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

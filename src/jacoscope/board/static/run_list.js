/**
 * The runs that there are, which of them are shown, and in which colours.
 *
 * @module run_list
 */

import { getJson, setStamp } from "./api.js";
import { DASHES } from "./glyphs.js";
import { state } from "./state.js";
import { theme } from "./theme.js";

const COLORS = 8;
const LIVE_FOR = 45_000;

let list = [];
let order = new Map();
const seen = new Map();

/** What names a run in links: `run|group`. */
function idOf({ run, group }) {
  return `${run}|${group}`;
}

/**
 * Ask the server which runs there are.
 *
 * @returns {Promise<Set<string>>} Ids of the runs that are new, have new data, or have gone.
 */
export async function refreshRuns() {
  const { runs } = await getJson("data/runs");
  const changed = new Set();
  const now = Date.now();
  const ids = new Set(runs.map(idOf));
  for (const run of runs) {
    const id = idOf(run);
    setStamp(run, run.version);
    const before = seen.get(id);
    if (before?.version === run.version) continue;
    changed.add(id);
    // The first sight of a run says nothing about whether it is being written.
    seen.set(id, { version: run.version, since: before ? now : 0 });
  }
  for (const id of [...seen.keys()]) {
    if (ids.has(id)) continue;
    seen.delete(id);
    changed.add(id);
  }
  list = runs.map((run) => ({ ...run, id: idOf(run) }));
  const names = list
    .map((run) => run.id)
    .sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  order = new Map(names.map((id, place) => [id, place]));
  return changed;
}

/** All runs in the order of their names, each with `id`, `color`, `dash` and `isLive`. */
export function runs() {
  return list.map(dressed).sort((a, b) => order.get(a.id) - order.get(b.id));
}

/** The runs that are shown: those of the link, or the newest one. */
export function selected() {
  const wanted = wantedIds();
  if (wanted === null) {
    const newest = newestRun();
    return newest ? [newest] : [];
  }
  return runs().filter((run) => wanted.includes(run.id));
}

/** The run that views of a single run show; null if none is selected. */
export function focus() {
  const shown = selected();
  const asked = state.get("focus");
  return shown.find((run) => run.id === asked) ?? newestOf(shown);
}

/** Ids in the link that name no run: those that have gone, or a link from elsewhere. */
export function unknownIds() {
  const known = new Set(list.map((run) => run.id));
  return (wantedIds() ?? []).filter((id) => !known.has(id));
}

/** What to call a run that is known by its id alone. */
export function labelOf(id) {
  return id.replace(/\|sensitivity$/, "").replace("|", " · ");
}

/** Show these runs. */
export function select(ids) {
  state.set({ runs: JSON.stringify(ids) });
}

/** Have single-run views show this run, selecting it where it is not. */
export function setFocus(id) {
  const ids = selected().map((run) => run.id);
  if (ids.includes(id)) state.set({ focus: id });
  else state.set({ focus: id, runs: JSON.stringify([...ids, id]) });
}

function wantedIds() {
  const wanted = state.getJson("runs");
  if (!Array.isArray(wanted)) return null;
  return wanted.filter((id) => typeof id === "string");
}

function newestRun() {
  return newestOf(runs());
}

function newestOf(some) {
  let newest = null;
  for (const run of some) if (newest === null || run.wall_time > newest.wall_time) newest = run;
  return newest;
}

function dressed(run) {
  const place = order.get(run.id);
  const since = seen.get(run.id)?.since ?? 0;
  return {
    ...run,
    color: theme.token(`--series-${(place % COLORS) + 1}`),
    dash: DASHES[(place + Math.floor(place / COLORS)) % DASHES.length],
    isLive: Date.now() - Math.max(since, (run.wall_time ?? 0) * 1000) < LIVE_FOR,
  };
}

/**
 * Which samples pull at the network, and how: ranked, filtered, one by one.
 *
 * @module views/samples
 */

import { h, replace } from "../dom.js";
import { emptyState } from "../empty.js";
import { frame } from "../export.js";
import { csv, number, step as stepText } from "../format.js";
import { colorOf } from "./_marks.js";
import { shortNames } from "./_names.js";
import { boardNamed, boardsOf, classCounts, decodedColumns, filtered, ranked } from "./_ranking.js";
import { SIZES, samplesControls } from "./_samples_controls.js";
import { sampleDetails } from "./_samples_details.js";
import { layerBoards } from "./_samples_layers.js";
import { lossByNorm } from "./_samples_scatter.js";
import { samplesTable } from "./_samples_table.js";
import { TITLES } from "./_samples_words.js";
import { changes, liveView, queryOf, viewHead } from "./_view.js";

const KEYS = ["board", "class", "text", "size", "page", "id", "layer"];
const YAML = `monitor:                      # leave this line out in a file of the monitor's own
  quantities: [grad_norm, sample_grad_norm, sample_alignment, stiffness_within]
  schedule: {every: 1}      # so that each epoch sees every sample
`;
const LEAD =
  "A training step adds up one gradient per sample. Here they stand one by one: how large each is, and whether it pulls the way its batch and its class do.";

export const samples_view = {
  id: "samples",
  title: "Samples",
  needs: (run) => run.has.samples || "No per-sample gradients were measured.",
  mount,
};

function mount(context) {
  const { api, state, theme, root } = context;
  const empty = h("div");
  const controls = samplesControls(set);
  const main = h("div", { class: "v-main" });
  const aside = h("div", { class: "v-aside v-sticky" });
  const page = h(
    "div",
    { hidden: true },
    viewHead("Samples", LEAD),
    controls.element,
    h("div", { class: "v-columns" }, main, aside),
  );
  const parts = {
    table: samplesTable({
      onSort: sortBy,
      onPick: (index) => pick(now.columns.id[index]),
      onPage: (at) => set({ page: at || null }),
    }),
    details: sampleDetails({ samplesOf: (from, to) => fetchSamples(context.focus(), [from, to]), theme }),
    scatter: lossByNorm(aside, {
      theme,
      announce: context.announce,
      onPick: (index) => pick(now.columns.id[index]),
    }),
    layers: layerBoards({ onLayer: (layer) => set({ layer }), onPick: pick }),
  };
  const ranking = frame(main, { title: "Samples", name: "samples", csv: () => rankingCsv(now) });
  ranking.body.append(parts.table.element);
  main.append(parts.layers.element);
  aside.prepend(parts.details.element);
  replace(root, empty, page);
  let now = null;
  const hasNews = changes();
  const hasNewReply = changes();

  return liveView(load, draw, () => {
    parts.scatter.destroy();
    parts.details.destroy();
  });

  function set(values) {
    state.set(Object.fromEntries(Object.entries(values).map(([key, value]) => [`samples_${key}`, value])));
  }

  function sortBy(column, direction) {
    const preset = now.boards.find((board) => board.column === column && board.direction === direction);
    set({ board: preset?.name ?? `column:${column}:${direction}`, page: null });
  }

  function pick(id) {
    set({ id: String(id) });
    context.announce(`Details of sample ${id} are shown.`);
  }

  async function load() {
    const run = context.focus();
    if (!run?.has.samples) return { run, reply: null };
    return { run, reply: await fetchSamples(run, context.range()) };
  }

  function fetchSamples(run, [from, to]) {
    return api.getJson("data/samples", { ...queryOf(run), from, to });
  }

  function draw({ run, reply }) {
    const asked = KEYS.map((key) => state.get(`samples_${key}`));
    if (!hasNews(run?.run, run?.group, reply, theme.isDark, ...asked)) return;
    const isEmpty = !reply?.columns.id.length;
    page.hidden = isEmpty;
    empty.hidden = !isEmpty;
    if (isEmpty) {
      replace(empty, nothing(run, reply));
      return;
    }
    if (hasNewReply(reply)) now = understood(reply);
    const filter = { wanted: state.get("samples_class"), text: state.get("samples_text") };
    const board = boardNamed(state.get("samples_board"), now.boards, TITLES);
    const order = ranked(now.columns, board, filtered(now.columns, filter));
    const chosen = now.columns.id.findIndex((id) => String(id) === state.get("samples_id"));
    const selected = chosen >= 0 ? chosen : (order[0] ?? 0);
    const size = SIZES.find((each) => each === state.getNumber("samples_size")) ?? SIZES[0];
    const at = Math.min(state.getNumber("samples_page") ?? 0, Math.max(0, Math.ceil(order.length / size) - 1));
    now = { ...now, board, order };
    controls.update({ ...now, ...filter, board, size, samples: now.columns.id.length });
    const colors = new Map(now.layers.map((layer, place) => [layer, colorOf(place, theme)]));
    const shared = { ...reply, columns: now.columns, selected, board, colorOf: (layer) => colors.get(layer) };
    ranking.setTitle(
      board.title,
      [board.explanation, described(reply, now.columns, order)].filter(Boolean).join(" "),
    );
    parts.table.set({
      ...shared,
      order,
      page: Math.max(0, Math.trunc(at)),
      size,
      shortOf: (layer) => now.short.get(layer),
    });
    parts.details.set({ ...shared, index: selected, lastLayer: reply.last_layer, isDark: theme.isDark });
    parts.scatter.set(now.columns, order, selected);
    parts.layers.set(reply.layer_boards, state.get("samples_layer"));
  }
}

/** A reply in the form that drawing takes. */
function understood(reply) {
  const columns = decodedColumns(reply.columns);
  const layers = [...new Set(Object.values(reply.pushes).flatMap((shares) => shares.map(([layer]) => layer)))];
  const { short } = shortNames(layers);
  return {
    columns,
    layers,
    short: new Map(layers.map((layer, place) => [layer, short[place]])),
    boards: boardsOf(columns, reply.boards),
    classes: classCounts(columns.label),
  };
}

function described(reply, columns, order) {
  const [first, last] = [reply.epochs[0], reply.epochs.at(-1)];
  const epochs =
    first.epoch === last.epoch ? `epoch ${first.epoch + 1}` : `epochs ${first.epoch + 1} to ${last.epoch + 1}`;
  const omitted = reply.epochs.reduce((sum, epoch) => Math.max(sum, epoch.omitted), 0);
  const words = [
    `${number(order.length)} of ${number(columns.id.length)} samples seen in ${epochs}, up to step ${stepText(last.step)}, each with its last values.`,
    reply.id_source ? `Ids: ${reply.id_source}.` : "",
    omitted ? `${number(omitted)} samples with small gradients are not in the record.` : "",
  ];
  return words.filter(Boolean).join(" ");
}

function rankingCsv({ columns, order }) {
  const names = [
    "id",
    "label",
    ...Object.keys(TITLES).filter((name) => !["id", "label"].includes(name)),
    "epoch",
  ].filter((name) => columns[name]);
  const rows = Array.from(order, (index, place) => [place + 1, ...names.map((name) => columns[name][index])]);
  return csv([["rank", ...names], ...rows]);
}

function nothing(run, reply) {
  if (reply) {
    const text =
      "The leaderboards of an epoch are written at its end. Take a wider range of steps, or wait for the epoch under way.";
    return emptyState({ title: "No epoch ended in this range of steps", text });
  }
  return emptyState({
    title: run ? `${run.label} has no samples` : "No run is chosen",
    text: "This view ranks the training samples by what each one's own gradient does. Ask for any per-sample quantity, and for captures that see every sample of an epoch.",
    yaml: YAML,
  });
}

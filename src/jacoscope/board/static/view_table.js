/**
 * The views, in the order of the questions that they answer.
 *
 * @module view_table
 */

/**
 * @typedef {object} ViewEntry
 * @property {string} id
 * @property {string} title
 * @property {string[]} help What it shows and how to read it, in short paragraphs.
 * @property {() => Promise<object>} load Gets the view; modules are fetched when first needed.
 */

/**
 * What a view is mounted with. `mount(context)` returns `{update, unmount}`; `update` brings the
 * view up to date with the link, the theme and the data, and resolves when it has.
 *
 * @typedef {object} ViewContext
 * @property {HTMLElement} root Where the view draws.
 * @property {object} api `getJson` and `getArrays`.
 * @property {object} state What the link says; see `state`.
 * @property {() => object[]} runs All runs.
 * @property {() => object[]} selected Those that are shown.
 * @property {() => object} focus The one that views of a single run show.
 * @property {() => [number|null, number|null]} range The range of steps; null for an open end.
 * @property {(range: [number|null, number|null]) => void} setRange
 * @property {{isDark: boolean, token: (name: string) => string}} theme
 * @property {(listener: () => void) => () => void} onTheme
 * @property {(text: string) => void} announce Tells screen readers.
 * @property {(text: string) => void} toast Tells everybody, for a moment.
 * @property {(error: Error) => void} fail Shows an error of the view.
 */

/** @type {ViewEntry[]} */
export const VIEWS = [
  {
    id: "overview",
    title: "Overview",
    help: [
      "Is training healthy, and where should I look? Each selected run has a card: what was found, in order of weight, with the step and the layers; the main numbers over time; and what is missing and why.",
      "A step in a finding opens the layers at that step.",
    ],
    load: async () => (await import("./views/overview.js")).overview_view,
  },
  {
    id: "layers",
    title: "Layers",
    help: [
      "Which layers does the loss depend on, and when? Rows are parameters in the model's order, columns are steps, colour is the chosen quantity.",
      "Point at a cell to read it. Click rows to compare their curves below; drag across to zoom into steps. The slider chooses the step of the distributions.",
    ],
    load: async () => (await import("./views/layers.js")).layers_view,
  },
  {
    id: "samples",
    title: "Samples",
    help: [
      "Which samples push the model, and which disagree with the rest? Boards rank the samples of the chosen steps by gradient norm, alignment or loss.",
      "Samples that pull against their own class are worth a look: often they are mislabelled.",
    ],
    load: async () => (await import("./views/samples.js")).samples_view,
  },
  {
    id: "agreement",
    title: "Agreement",
    help: [
      "Do the samples of a batch want the same? The matrix holds the products of their gradients, sorted by class: positive where a step for one helps the other.",
      "The spectrum says in how many directions the batch pulls.",
    ],
    load: async () => (await import("./views/agreement.js")).agreement_view,
  },
  {
    id: "outputs",
    title: "Outputs",
    help: [
      "How do the outputs move with the inputs and with the parameters? Saliency pictures, singular values of the input Jacobian, and the spectrum of the tangent kernel over time.",
    ],
    load: async () => (await import("./views/outputs.js")).outputs_view,
  },
  {
    id: "all_else_equal",
    title: "All else equal",
    help: [
      "When the optimiser moved a layer, did the loss move as its partial derivative said? The waterfall compares the promised with the measured change, layer by layer; the allocation adds up over the run.",
    ],
    load: async () => (await import("./views/all_else_equal.js")).all_else_equal_view,
  },
  {
    id: "compare",
    title: "Compare",
    help: [
      "Where do two runs differ? One quantity of run A and run B, layer by layer, with the ratio as a bar; layers that differ by more than a factor of two are marked.",
      "Click a row to see both curves.",
    ],
    load: async () => (await import("./views/compare.js")).compare_view,
  },
];

/**
 * What stands where there is no run to show.
 *
 * @module no_run
 */

import { replace } from "./dom.js";
import { emptyState } from "./empty.js";
import { labelOf, runs, unknownIds } from "./run_list.js";

/** @type {import("./view_table.js").ViewEntry} */
export const NO_RUN = {
  id: "none",
  title: "No run",
  help: [],
  load: async () => ({
    mount: ({ root }) => ({
      update: () => replace(root, runs().length === 0 ? noRecord() : noSelection()),
      unmount: () => {},
    }),
  }),
};

function noRecord() {
  return emptyState({
    title: "No record of Jacoscope in this log folder yet",
    text: "Add the monitor to the callbacks of your Trainer, train a few steps, and this page fills by itself. TensorBoard must be pointed at the folder that the logger writes to.",
    yaml: "trainer:\n  callbacks:\n    - class_path: jacoscope.SensitivityMonitor\n",
  });
}

function noSelection() {
  const gone = unknownIds().map(labelOf);
  const text =
    gone.length > 0 ? `The runs of this link are not in this folder: ${gone.join(", ")}. ` : "";
  return emptyState({
    title: "No run is selected",
    text: `${text}Tick a run on the left to see it.`,
  });
}

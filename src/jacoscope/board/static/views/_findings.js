/**
 * What was found in a run, in order of weight.
 *
 * @module views/_findings
 */

import { button, h, svg } from "../dom.js";
import { count, step } from "../format.js";

const SEVERITIES = {
  alert: { word: "Alert", path: "M8 1 L15.2 14.5 H0.8 Z", mark: "!" },
  warning: { word: "Warning", path: "M8 0.8 L15.2 8 L8 15.2 L0.8 8 Z", mark: "!" },
  note: { word: "Note", path: "M1 1 H15 V15 H1 Z", mark: "i" },
  good: { word: "Good", path: "M8 0.8 A7.2 7.2 0 1 1 7.99 0.8 Z", mark: "✓" },
};

/**
 * What was found: first how it stands, then what calls for a look, then what is well.
 *
 * @param {object[]} findings As `/data/overview` gives them, in order of weight.
 * @param {(finding: object) => void} open Shows where a finding is from.
 * @returns {HTMLElement[]}
 */
export function findingList(findings, open) {
  const isGood = (finding) => finding.severity === "good";
  const others = findings.filter((finding) => !isGood(finding));
  const good = findings.filter(isGood);
  return [
    verdict(findings),
    others.length > 0
      ? h(
          "ul",
          { class: "findings", "aria-label": "Findings" },
          others.map((one) => item(one, open)),
        )
      : null,
    good.length > 0
      ? h(
          "ul",
          { class: "findings good-list", "aria-label": "What is well" },
          good.map((one) => goodItem(one, open)),
        )
      : null,
  ].filter(Boolean);
}

/** One line that says whether anything is wrong. */
function verdict(findings) {
  const counts = (severity) => findings.filter((finding) => finding.severity === severity).length;
  const [alerts, warnings, notes] = ["alert", "warning", "note"].map(counts);
  const severity = alerts > 0 ? "alert" : warnings > 0 ? "warning" : "good";
  const faults = [
    alerts > 0 ? count(alerts, "alert") : null,
    warnings > 0 ? count(warnings, "warning") : null,
  ].filter(Boolean);
  const first =
    faults.length > 0 ? `${faults.join(" and ")} to look at.` : "No alerts, no warnings.";
  const second = notes > 0 ? ` ${count(notes, "note")}.` : "";
  if (findings.length === 0) {
    return h("p", { class: "note" }, "There is nothing to judge this run by yet.");
  }
  return h(
    "p",
    { class: `verdict ${severity}`, "data-verdict": severity },
    sign(severity, 20),
    h("span", null, first + second),
  );
}

function item(finding, open) {
  const severity = SEVERITIES[finding.severity] ? finding.severity : "note";
  return h(
    "li",
    { class: `finding ${severity}`, "data-kind": finding.kind, "data-severity": severity },
    badge(severity),
    h(
      "div",
      { class: "finding-text" },
      h("p", null, h("strong", null, finding.title), " ", finding.text),
      layersOf(finding),
    ),
    finding.view ? jump(finding, open) : null,
  );
}

/** What is well takes one line; its sentence is a click away. */
function goodItem(finding, open) {
  return h(
    "li",
    { class: "finding good", "data-kind": finding.kind, "data-severity": "good" },
    h(
      "details",
      { "data-key": `good ${finding.kind}` },
      h("summary", null, badge("good"), " ", h("span", { class: "good-title" }, finding.title)),
      h("p", null, finding.text),
      layersOf(finding),
      finding.view ? jump(finding, open) : null,
    ),
  );
}

function layersOf({ layers = [], more = 0 }) {
  if (layers.length === 0) return null;
  const names = layers.map((name, at) => [at > 0 ? ", " : null, h("code", null, name)]);
  return h("p", { class: "finding-layers" }, "In ", names, more > 0 ? ` and ${more} more` : "");
}

/** The sign of a severity and its word. */
function badge(severity) {
  return h(
    "span",
    { class: "badge" },
    sign(severity, 18),
    h("span", null, SEVERITIES[severity].word),
  );
}

/** Shape and mark tell severities apart besides their colour. */
function sign(severity, size) {
  const { path, mark } = SEVERITIES[severity];
  return svg(
    "svg",
    { width: size, height: size, viewBox: "0 0 16 16", class: "sign", "aria-hidden": "true" },
    svg("path", { d: path, fill: "currentColor" }),
    svg(
      "text",
      { x: 8, y: severity === "alert" ? 13 : 12, "text-anchor": "middle", class: "badge-mark" },
      mark,
    ),
  );
}

function jump(finding, open) {
  const hasStep = finding.step !== null && finding.step !== undefined;
  const text = hasStep ? `Step ${step(finding.step)}` : "Show";
  return button(text, () => open(finding), {
    class: "jump",
    "aria-label": `${text}: ${finding.title}`,
    "data-key": `finding ${finding.kind}`,
  });
}

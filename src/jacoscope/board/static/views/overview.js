/**
 * Overview: is training healthy, and where to look?
 *
 * @module views/overview
 */

import { lineChart } from "../chart.js";
import { h, replace } from "../dom.js";
import { axis, step } from "../format.js";
import { spansDecades } from "./_spark.js";
import { runCard, runDetails } from "./_run_card.js";
import { headlineSeries } from "./_tiles.js";

const MOST = 6;

export const overview_view = {
  id: "overview",
  title: "Overview",
  needs: () => true,
  mount: (context) => new Overview(context),
};

class Overview {
  constructor(context) {
    this.context = context;
    this.cards = new Map();
    this.isAsked = false;
    this.note = h("p", { class: "note" });
    this.grid = h("div", { class: "cards" });
    context.root.append(
      h("div", { class: "view-head" }, h("h2", null, "Overview"), this.note),
      this.grid,
    );
  }

  async update() {
    const { api, selected } = this.context;
    const all = selected();
    const shown = all.slice(0, MOST);
    const results = await Promise.allSettled(
      shown.map(({ run, group }) => api.getArrays("data/overview", { run, group })),
    );
    this.note.textContent =
      all.length > MOST
        ? `The first ${MOST} of ${all.length} selected runs.`
        : "Is training healthy, and where to look?";
    this.replies = new Map();
    shown.forEach((run, place) => {
      if (results[place].status === "fulfilled") {
        this.replies.set(run.id, { run, reply: results[place].value });
      }
    });
    this.#drop(shown);
    shown.forEach((run, place) => this.#draw(run, results[place]));
    this.grid.classList.toggle("single", shown.length === 1);
  }

  unmount() {
    for (const card of this.cards.values()) card.chart?.destroy();
  }

  #drop(shown) {
    const kept = new Set(shown.map((run) => run.id));
    for (const [id, card] of this.cards) {
      if (kept.has(id)) continue;
      card.chart?.destroy();
      card.node.remove();
      this.cards.delete(id);
    }
  }

  #card(run) {
    if (!this.cards.has(run.id)) {
      const [top, place, foot] = [h("div"), h("div"), h("div")];
      const node = h(
        "section",
        { class: "card", "aria-label": `Run ${run.label}`, "data-run": run.id },
        top,
        place,
        foot,
      );
      this.cards.set(run.id, { node, top, place, foot, chart: null, drawn: null });
    }
    const card = this.cards.get(run.id);
    // In the order of the runs, and moved only where that differs: moving a node takes its focus.
    const at = [...this.grid.children].indexOf(card.node);
    const wanted = [...this.replies.keys()].indexOf(run.id);
    if (at < 0 || (wanted >= 0 && at !== wanted)) {
      this.grid.insertBefore(card.node, this.grid.children[Math.max(wanted, 0)] ?? null);
    }
    return card;
  }

  #draw(run, result) {
    const card = this.#card(run);
    if (result.status === "rejected") {
      card.drawn = null;
      replace(
        card.top,
        h("h3", null, run.label),
        h("p", { class: "problem" }, result.reason.message),
      );
      replace(card.foot);
      return;
    }
    const reply = result.value;
    const charted = this.#charted(run);
    const look = JSON.stringify([run.color, run.label, run.problem, charted]);
    if (card.drawn?.reply !== reply || card.drawn.look !== look) {
      this.#fill(card, run, reply, charted);
      card.drawn = { reply, look };
    }
    this.#drawChart(card, charted);
  }

  #fill(card, run, reply, charted) {
    const active = card.node.contains(document.activeElement)
      ? document.activeElement.dataset.key
      : null;
    const open = [...card.node.querySelectorAll("details[open]")].map((node) => node.dataset.key);
    const actions = {
      open: (finding) => this.#open(run, finding),
      chart: (name) => {
        this.isAsked = name !== null;
        this.context.state.set({
          overview_chart: name === null ? null : JSON.stringify([run.id, name]),
        });
      },
    };
    replace(card.top, runCard(run, reply, actions, charted));
    replace(card.foot, runDetails(reply));
    for (const node of card.node.querySelectorAll("details")) {
      node.open = open.includes(node.dataset.key);
    }
    if (active) {
      [...card.node.querySelectorAll("[data-key]")]
        .find((node) => node.dataset.key === active)
        ?.focus();
    }
  }

  #charted(run) {
    const [id, name] = this.context.state.getJson("overview_chart") ?? [];
    return id === run.id ? name : null;
  }

  #drawChart(card, name) {
    const spec = name ? this.#chartSpec(name) : null;
    if (!spec || spec.series.length === 0) {
      card.chart?.destroy();
      card.chart = null;
    } else if (card.chart) {
      card.chart.set(spec);
    } else {
      card.chart = lineChart(card.place, spec);
    }
    // The chart stands below all numbers, maybe out of sight of whoever asked for it.
    if (this.isAsked && card.chart) card.place.scrollIntoView({ block: "nearest" });
    if (name) this.isAsked = false;
  }

  /** One headline of all selected runs. */
  #chartSpec(name) {
    const series = [];
    let about = null;
    let log = false;
    for (const { run, reply } of this.replies.values()) {
      const numbers = headlineSeries(reply, name);
      if (!numbers) continue;
      about ??= numbers.about;
      log ||= spansDecades(numbers.low, numbers.high);
      series.push({
        label: run.label,
        color: run.color,
        dash: run.dash,
        x: numbers.step,
        low: numbers.low,
        high: numbers.high,
      });
    }
    if (!about) return null;
    const [first] = series;
    const span =
      first.x.length > 0
        ? ` Steps ${step(first.x[0])} to ${step(first.x[first.x.length - 1])}.`
        : "";
    return {
      title: about.title,
      note: `Headline ${about.name} of the selected runs.${span}`,
      name: `headline_${about.name}`,
      xLabel: "Step",
      yLabel: axis(about.title, about.unit),
      log,
      series,
      height: 240,
      onZoom: (range) => this.context.setRange(range),
    };
  }

  #open(run, finding) {
    const { view, ...keys } = finding.view;
    // All steps, lest the one of the finding be outside of the range.
    const changes = { view, focus: run.id, from: null, to: null, step: null };
    for (const [key, value] of Object.entries(keys)) {
      changes[key] = typeof value === "object" && value !== null ? JSON.stringify(value) : value;
    }
    if (finding.step !== null && finding.step !== undefined) changes.step = finding.step;
    this.context.state.set(changes);
  }
}

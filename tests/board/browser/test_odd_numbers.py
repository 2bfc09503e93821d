"""Figures of numbers that no training should yield are drawn, at once and without an error."""

from typing import Any

import pytest

from board_browser import Tab

_ODD = {
    "constant": [1, 1, 1],
    "a single step": [5],
    "nothing": [],
    "close together": [1, 1 + 1e-12, 1 + 2e-12],
    "not numbers": ["NaN", "NaN"],
    "infinite": ["Infinity", 1, "-Infinity"],
    "zeros": [0, 0, 0],
    "negative": [-1, -2],
    "both signs": [-1, 0, 1e-9],
    "smallest and largest": [1e-300, 1e300],
    "as small as can be": [5e-324, 1e-320],
    "at the end of float32": [3.4e38, 3.4e38],
}

_DRAW = """async (_, [values, log]) => {
  const at = (path) => new URL(path, document.baseURI).href;
  const { lineChart } = await import(at("static/chart.js"));
  const { heatmap } = await import(at("static/heatmap.js"));
  const numbers = values.map(Number);
  const x = Float64Array.from(numbers, (_, index) => 997 * index);
  const [low, high] = [Float32Array.from(numbers), Float64Array.from(numbers)];
  const holder = document.querySelector("main").appendChild(document.createElement("div"));
  const start = performance.now();
  const shared = { title: "odd", name: "odd", log, height: 120, unit: "" };
  const series = [{ label: "odd", color: "#0072b2", dash: [], x, low: high, high }];
  const labels = { xLabel: "Step", yLabel: "odd" };
  const chart = lineChart(holder, { ...shared, ...labels, series });
  const flags = Uint8Array.from(numbers, (value) => (Number.isFinite(value) ? 0 : 1));
  const rows = [{ label: "odd" }];
  const map = heatmap(holder, { ...shared, rows, columns: x, low, high: low, flags });
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const taken = performance.now() - start;
  const name = holder.querySelector("canvas.heat-canvas").getAttribute("aria-label");
  chart.destroy();
  map.destroy();
  holder.remove();
  return [taken, name];
}"""


@pytest.mark.parametrize("scale", ["linear", "logarithmic"])
def test_odd_numbers_are_drawn(tab: Tab, scale: str) -> None:
    tab.open("overview", "cnn")
    for name, values in _ODD.items():
        asked: Any = [values, scale == "logarithmic"]
        milliseconds, label = tab.frame.locator(":root").evaluate(_DRAW, asked)
        assert milliseconds < 2000, name  # ticks without end would take until the memory is full
        assert label.startswith("odd."), name

"""How long the Sensitivity tab takes to show a long run.

    python scripts/benchmark_board.py                  # 200 rows × 20,000 steps × 6 quantities
    python scripts/benchmark_board.py --logdir runs    # the newest of your own runs

TensorBoard's own part is the time from its start until it has read the run, and from opening the
page until the tab's frame is there. What the tab adds is the time from there until the overview is
drawn, and then the heat map of Layers: on the first page, for which the server has to read and
reduce, and the median of three.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page
from torch.utils.tensorboard import SummaryWriter

from board_page import chromium, link, runs, served, wait_for_view, wait_until
from jacoscope.config import Output
from jacoscope.quantities import QUANTITIES, is_per_sample, is_probed
from jacoscope.record import Axis, GradientInfo, Record, StepRecord
from jacoscope.sinks import TensorBoardSink

PAGES = 3


def record(folder: Path, rows: int, steps: int, quantities: int) -> None:
    """Write a run of that size, with spikes that a reduction must keep."""
    names = tuple(f"blocks.{i // 4}.linear{i % 4}.weight" for i in range(rows))
    layers = tuple(name.removesuffix(".weight") for name in names)
    axis = Axis(names, layers, ("weight",) * rows, (1000,) * rows)
    plain = (n for n in QUANTITIES if not (is_per_sample(n) or is_probed(n)))
    chosen = [name for name in plain if name != "grad_histogram"][:quantities]
    generator = np.random.default_rng(0)
    output = Output(pictures=(), card=False)
    sink = TensorBoardSink(SummaryWriter(str(folder), max_queue=1000), output, owns_writer=True)
    for step in range(steps):
        numbers = np.exp(generator.standard_normal((len(chosen), rows)) - np.arange(rows) / 50)
        if step % 997 == 0:
            numbers[:, step % rows] = 1e6
        records = tuple(
            Record(name, axis, values, {}) for name, values in zip(chosen, numbers, strict=True)
        )
        sink.write(StepRecord(step, step // 1000, records, {}, GradientInfo()))
        if step % 1000 == 0:
            print(f"\rrecording {step} of {steps} steps", end="", flush=True)
    sink.close()
    print(f"\rrecorded {steps} steps × {rows} rows × {len(chosen)} quantities")


def measure(browser: Browser, logdir: Path, load_fast: str) -> dict[str, float]:
    """Seconds until a run is read, and until each view of it is drawn."""
    start = time.perf_counter()
    with served(logdir, "--load_fast", load_fast) as address:
        figures = {"read by TensorBoard": _read(address) - start}
        run = runs(address)[0]["run"]
        taken: dict[str, list[float]] = {}
        for _ in range(PAGES):
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            for name, seconds in _page(page, address, run).items():
                taken.setdefault(name, []).append(seconds)
            page.close()
    for name, all_seconds in taken.items():
        figures[f"{name}, first"] = all_seconds[0]
        figures[f"{name}, median"] = statistics.median(all_seconds)
    return figures


def _page(page: Page, address: str, run: str) -> dict[str, float]:
    """Seconds that the parts of a new page take, one after the other."""
    start = time.perf_counter()
    page.goto(link(address, "overview", run))
    page.locator("iframe").wait_for(state="attached")
    framed = time.perf_counter()
    wait_for_view(page, "overview")
    drawn = time.perf_counter()
    page.goto(link(address, "layers", run))
    wait_for_view(page, "layers")
    return {
        "TensorBoard's page": framed - start,
        "overview": drawn - framed,
        "layers": time.perf_counter() - drawn,
    }


def _read(address: str) -> float:
    """When the last step was there that no other has followed for a second."""
    changed, last = time.perf_counter(), 0

    def is_settled() -> bool:
        nonlocal changed, last
        now = max((run["last_step"] or 0 for run in runs(address)), default=0)
        if now != last:
            last, changed = now, time.perf_counter()
        return last > 0 and time.perf_counter() - changed > 1

    wait_until(is_settled, "the run to be read")
    return changed


def main() -> None:
    """Measure with both of TensorBoard's loaders and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--logdir", type=Path, help="runs to show, instead of one made for this")
    parser.add_argument("--rows", type=int, default=200, help="parameters of that run")
    parser.add_argument("--steps", type=int, default=20_000, help="captured steps of that run")
    parser.add_argument("--quantities", type=int, default=6, help="quantities of that run")
    parser.add_argument("--chromium", help="path of a Chromium")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chromium(options.chromium) as browser:
        logdir = options.logdir or Path(folder)
        if options.logdir is None:
            record(logdir / "long", options.rows, options.steps, options.quantities)
        columns = {loader: measure(browser, logdir, loader) for loader in ("true", "false")}
    width = max(map(len, columns["true"]))
    print(f"\n{'seconds':<{width}}  --load_fast true  --load_fast false")
    for name, seconds in columns["true"].items():
        print(f"{name:<{width}}  {seconds:16.2f}  {columns['false'][name]:17.2f}")


if __name__ == "__main__":
    main()

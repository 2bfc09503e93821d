"""Make the pictures of the README from real runs of the shipped experiments.

    pip install -c constraints.txt -e '.[demo]' && pip install playwright   # and a Chromium
    python scripts/make_pictures.py --chromium /usr/bin/chromium

Without ``--chromium`` only the pictures that the monitor itself draws are made.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jacoscope.cli import main as jacoscope

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
RUNS = {"digits_cnn": "update_ratio", "topics_transformer": "grad_rms"}
PICTURES = {
    "sensitivity_samples_pictures/largest_mean_gradient": "samples",
    "sensitivity_all_else_equal/waterfall": "waterfall",
    "sensitivity_all_else_equal/allocation": "allocation",
    "sensitivity_outputs/saliency": "saliency",
    "sensitivity_outputs/ntk_spectrum": "ntk_spectrum",
}
TABS = {"scalars": "#scalars&tagFilter=sensitivity", "histograms": "#histograms"}


def train(name: str, folder: str) -> None:
    """Train a shipped experiment, but for where it writes; digits with every step captured."""
    config = ROOT / "configs" / f"{name}.yaml"
    options = [
        f"--config={config}",
        f"--trainer.logger.init_args.save_dir={folder}/runs",
        "--trainer.enable_progress_bar=false",
    ]
    if name == "digits_cnn":
        every_sample = ROOT / "configs" / "monitor" / "every_sample.yaml"
        options += [f"--monitor={every_sample}", "--trainer.max_epochs=20"]
    sys.argv[1:] = []
    if jacoscope(["fit", *options]) != 0:
        raise SystemExit(f"{name} failed")


def save_drawn(name: str, quantity: str, folder: str) -> None:
    """Save a run's last layer × step picture of a quantity, and what other pictures it has."""
    accumulator = EventAccumulator(
        str(Path(folder) / "runs" / name / "version_0"), {"images": 0}
    ).Reload()
    tags = {f"sensitivity_layers_by_step/{quantity}": quantity, **PICTURES}
    for tag, short in tags.items():
        if name != "digits_cnn" and tag in PICTURES:
            continue
        if tag in accumulator.Tags()["images"]:
            path = IMAGES / f"{name}_{short}.png"
            path.write_bytes(accumulator.Images(tag)[-1].encoded_image_string)
            print(path)


def save_tabs(folder: str, chromium: str) -> None:
    """Save screenshots of TensorBoard's own tabs on the runs."""
    from playwright.sync_api import sync_playwright

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "runs", "--port", str(port)]
    server = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        _wait_for(f"http://127.0.0.1:{port}/data/runs")
        with sync_playwright() as playwright:
            arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
            page: Any = browser.new_page(viewport={"width": 1280, "height": 800})
            for name, fragment in TABS.items():
                page.goto("about:blank")
                page.goto(f"http://127.0.0.1:{port}/{fragment}")
                page.wait_for_timeout(8000)
                path = IMAGES / f"tensorboard_{name}.png"
                page.screenshot(path=path)
                print(path)
            browser.close()
    finally:
        server.terminate()


def _wait_for(address: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if urllib.request.urlopen(address).read() not in (b"", b"[]"):
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"TensorBoard did not answer at {address}")


def main() -> None:
    """Train, draw and save."""
    parser = argparse.ArgumentParser(description="Make the pictures of the README.")
    parser.add_argument("--chromium", help="path of a Chromium, for screenshots of TensorBoard")
    options = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, quantity in RUNS.items():
            train(name, folder)
            save_drawn(name, quantity, folder)
        if options.chromium:
            save_tabs(folder, options.chromium)


if __name__ == "__main__":
    main()

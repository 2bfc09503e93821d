"""Take the screenshots of the Sensitivity tab.

    pip install -c constraints.txt -e '.[test]'                        # and a Chromium
    python scripts/take_screenshots.py                                 # those of the README
    python scripts/take_screenshots.py --all --out shots               # every view of every run
    python scripts/take_screenshots.py --all --out shots --logdir runs # of runs of your own

Without ``--logdir`` three shipped experiments are trained first, for a few epochs.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from playwright.sync_api import Browser, Page

from board_page import chromium, link, runs, served, wait_for_view, wait_until

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
EPOCHS = {"digits_cnn": 8, "digits_resnet": 4, "topics_transformer": 3}
VIEWS = ("overview", "layers", "samples", "agreement", "outputs", "all_else_equal", "compare")
SIZES = ((1280, 720), (1920, 1080))
Theme = Literal["light", "dark"]
THEMES: tuple[Theme, ...] = ("light", "dark")
LATER = datetime(2100, 1, 1, 12)
LARGEST = 250_000  # bytes of an image in the README


@dataclass(frozen=True)
class Shot:
    """A picture to take: what it is called, and what it shows.

    Attributes:
        run: How the run's name begins; the newest of these is shown.
    """

    name: str
    run: str
    view: str
    theme: Theme = "light"
    size: tuple[int, int] = SIZES[0]
    state: dict[str, Any] = field(default_factory=dict)


README = (
    Shot("tab_overview", "digits_cnn", "overview"),
    Shot("tab_layers", "topics_transformer", "layers", "dark"),
    Shot("tab_samples", "digits_cnn", "samples"),
    Shot("tab_agreement", "digits_cnn", "agreement"),
    Shot("tab_outputs", "digits_cnn", "outputs"),
    Shot("tab_all_else_equal", "digits_cnn", "all_else_equal"),
)


def train(folder: Path) -> None:
    """Train the shipped experiments for a few epochs, digits with every step captured."""
    for name, epochs in EPOCHS.items():
        print(f"training {name} for {epochs} epochs", flush=True)
        command = [
            *(sys.executable, "-m", "jacoscope", "fit", "--config"),
            str(ROOT / "configs" / f"{name}.yaml"),
            f"--trainer.max_epochs={epochs}",
            f"--trainer.logger.init_args.save_dir={folder}",
            "--trainer.logger.init_args.version=",
            "--trainer.enable_progress_bar=false",
        ]
        if name == "digits_cnn":
            command.append(f"--monitor={ROOT / 'configs' / 'monitor' / 'every_sample.yaml'}")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def every_shot(address: str) -> Iterator[Shot]:
    """Each view of each run, light and dark, in both sizes."""
    for run in (found["run"] for found in runs(address)):
        for size in SIZES:
            for theme in THEMES:
                for view in VIEWS:
                    name = f"{run.replace('/', '_')}-{view}-{theme}-{size[0]}x{size[1]}"
                    yield Shot(name, run, view, theme, size)


def take(browser: Browser, address: str, shots: list[Shot], out: Path) -> None:
    """Take pictures, with one page for those of a size and theme."""
    out.mkdir(parents=True, exist_ok=True)
    pages: dict[tuple[tuple[int, int], Theme], Page] = {}
    for place, shot in enumerate(shots, 1):
        key = (shot.size, shot.theme)
        if key not in pages:
            width, height = shot.size
            pages[key] = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme=shot.theme,
                reduced_motion="reduce",
            )
            # Pictures do not tell when they were taken; long after, no run is live.
            pages[key].clock.set_fixed_time(LATER)
        page = pages[key]
        run = next((r["run"] for r in runs(address) if r["run"].startswith(shot.run)), None)
        if run is None:
            raise SystemExit(f"there is no run whose name begins with {shot.run}")
        page.goto(link(address, shot.view, run, **shot.state))
        wait_for_view(page, shot.view)
        path = out / f"{shot.name}.png"
        path.write_bytes(small(page.screenshot(animations="disabled")))
        print(f"[{place}/{len(shots)}] {path}: {path.stat().st_size / 1000:.0f} kB", flush=True)


def small(screenshot: bytes) -> bytes:
    """The same picture in fewer bytes."""
    content = io.BytesIO()
    Image.open(io.BytesIO(screenshot)).convert("RGB").save(content, "PNG", optimize=True)
    return content.getvalue()


def main() -> None:
    """Train if need be, serve, and take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--logdir", type=Path, help="runs to show, instead of training some")
    parser.add_argument("--all", action="store_true", help="every view of every run")
    parser.add_argument("--out", type=Path, default=IMAGES, help="where to (default: docs/images)")
    parser.add_argument("--chromium", help="path of a Chromium")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logdir = options.logdir or Path(folder)
        if options.logdir is None:
            train(logdir)
        with chromium(options.chromium) as browser, served(logdir) as address:
            wait_until(lambda: bool(runs(address)), "runs")
            shots = list(every_shot(address)) if options.all else list(README)
            take(browser, address, shots, options.out)
    large = [s.name for s in shots if (options.out / f"{s.name}.png").stat().st_size > LARGEST]
    if large and not options.all:
        raise SystemExit(f"larger than {LARGEST / 1000:.0f} kB: {', '.join(large)}")


if __name__ == "__main__":
    main()

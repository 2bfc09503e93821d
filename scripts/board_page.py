"""The tab in a browser, for the scripts: a server, and pages that show a view of a run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Browser, Page, sync_playwright

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE = 120.0


@contextlib.contextmanager
def served(logdir: Path, *options: str) -> Iterator[str]:
    """``jacoscope board`` on a folder; its address, as soon as it listens."""
    command = [sys.executable, "-m", "jacoscope", "board", str(logdir), "--port", "0", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        announced = re.search(r"(http://\S+/)#jacoscope", process.stdout.readline())
        if announced is None:
            raise SystemExit(f"no server: {' '.join(command)}")
        yield announced[1]
    finally:
        process.terminate()
        process.wait()


def runs(address: str) -> list[dict[str, Any]]:
    """What the tab has of every run, newest first."""
    with urllib.request.urlopen(f"{address}data/plugin/jacoscope/data/runs") as reply:
        found: list[dict[str, Any]] = json.load(reply)["runs"]
    return sorted(found, key=lambda run: -(run["wall_time"] or 0))


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.02)


@contextlib.contextmanager
def chromium(path: str | None = None) -> Iterator[Browser]:
    """A Chromium: the one named, that of ``CHROMIUM_PATH``, or the system's."""
    path = path or os.environ.get("CHROMIUM_PATH") or shutil.which("chromium")
    if path is None:
        raise SystemExit("there is no Chromium; give its path with --chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def link(address: str, view: str, run: str, **state: Any) -> str:
    """The address of a view of one run, with more of its state."""
    shown: dict[str, Any] = {"view": view, "runs": [f"{run}|sensitivity"], **state}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in shown.items()}
    return f"{address}#jacoscope" + "".join(
        f"&p.jacoscope.{k}={quote(v)}" for k, v in texts.items()
    )


def wait_for_view(page: Page, view: str) -> None:
    """Wait until a view is drawn."""
    ready = f"[data-view={view}][data-ready=true]"
    page.frame_locator("iframe").locator(ready).wait_for(timeout=1000 * PATIENCE)

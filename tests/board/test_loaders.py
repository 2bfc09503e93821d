"""Both of TensorBoard's loaders: they read alike, or what they read differently ends up alike."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.data import server_ingester
from tensorboard.util import grpc_util

from board_records import GROUP, RUN, Board, Log, described, read, trained

_PATIENCE = 60.0


def _binary() -> Any:
    try:
        return server_ingester.get_server_binary()
    except server_ingester.NoDataServerError as error:
        pytest.skip(f"TensorBoard has no data server here, so one loader alone: {error}")


def _served(folder: Path) -> Any:
    """A data provider over a log folder, such as TensorBoard has with ``--load_fast=true``."""
    ingester = server_ingester.SubprocessServerDataIngester(
        server_binary=_binary(),
        logdir=str(folder),
        reload_interval=1,
        channel_creds_type=grpc_util.ChannelCredsType.LOCAL,
        samples_per_plugin={"jacoscope": 0},
    )
    ingester.start()
    return ingester.data_provider


def _resumed(folder: Path) -> None:
    """A run of 60 steps that was taken up again at step 40, with one quantity less."""
    rng = np.random.default_rng(0)
    for part, steps in enumerate((range(60), range(40, 50))):
        with Log(folder / RUN) as log:
            start = 1e9 + 1000 * part
            for step in steps:
                values = [log.quantity("grad_norm", rng.random(3)), log.headline(grad_norm=step)]
                if part == 0:
                    values.append(log.quantity("grad_max", rng.random(3)))
                if step == steps[0]:
                    values += [log.text(".run", described()), log.text(".status", {"part": part})]
                log.capture(step, *values, epoch=step // 20, wall=start + step)
                if step % 10 == 0:
                    trace = log.quantity("ntk_trace", rng.random(3), probe=True)
                    record = {"epoch": step, "part": part, "all_else_equal": None}
                    log.probe(step, trace, log.text(".probe", record), wall=start + step + 0.5)


def _both(folder: Path) -> tuple[Board, Board]:
    """The tab over a folder with the slow loader, and with the fast one once it has read it all."""
    slow, fast = Board(read(folder)), Board(_served(folder))
    expected = _listed(slow)
    until = time.monotonic() + _PATIENCE
    while _listed(fast) != expected and time.monotonic() < until:
        time.sleep(0.1)
    assert _listed(fast) == expected
    return slow, fast


def _listed(board: Board) -> Any:
    """What is recorded; the slow loader's last step may be one that was done again."""
    runs = board.json("runs")["runs"]
    return [{k: v for k, v in run.items() if k not in ("version", "last_step")} for run in runs]


@pytest.mark.parametrize("kind", ["real", "resumed"])
def test_every_reply_is_the_same(tmp_path: Path, kind: str) -> None:
    if kind == "resumed":
        _resumed(tmp_path)
    slow, fast = _both(trained() if kind == "real" else tmp_path)
    (run,) = slow.json("runs")["runs"]
    asked = {"run": run["run"], "group": GROUP}
    queries: list[tuple[str, dict[str, Any]]] = [
        (name, asked) for name in ("overview", "samples", "agreement", "probes", "allocation")
    ]
    queries += [
        ("series", {**asked, "quantity": quantity["name"]})
        for quantity in run["quantities"]
        if not quantity["histogram"]
    ]
    queries += [("spectra", {**asked, "kind": "ntk"}), ("outputs", asked), ("gram", asked)]
    for name, query in queries:
        one, other = slow.get(name, **query), fast.get(name, **query)
        assert one.status_code == other.status_code
        assert one.data == other.data, (name, query)


def test_the_last_written_count(tmp_path: Path) -> None:
    _resumed(tmp_path)
    for board in _both(tmp_path):
        asked = {"run": RUN, "group": GROUP}
        _, arrays = board.arrays("series", **asked, quantity="grad_norm")
        assert arrays["step"].tolist() == list(range(50))
        _, arrays = board.arrays("series", **asked, quantity="grad_max")
        assert arrays["step"].tolist() == list(range(40))
        probes = board.json("probes", **asked)["steps"]
        assert [probe["step"] for probe in probes] == [0, 10, 20, 30, 40]

"""A run says which of its numbers come from a part of a step's samples or layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from jacoscope import MonitorConfig, Run, read_run
from jacoscope.extent import Extent
from jacoscope.sinks import RunInfo, TensorBoardSink
from test_adapting import Fit, in_proportion


def _read(fit: Fit, folder: Path) -> Run:
    output = {"pictures": (), "card": False, "histograms": False}
    told = MonitorConfig(overhead=0.02, output=output)  # type: ignore[arg-type]
    sink = TensorBoardSink(SummaryWriter(str(folder)), told.output, owns_writer=True)
    sink.open(RunInfo(told, fit.monitor.selection, {}, ()))
    for record in fit.sink.records:
        sink.write(record)
    sink.close()
    return read_run(folder)


def test_steps_say_on_how_much_of_them_samples_were_measured(tmp_path: Path) -> None:
    fit = Fit(in_proportion(0.1), every=1)
    fit.train_on([Extent(), Extent(1), Extent(2, 4, 1), Extent()])
    steps = _read(fit, tmp_path).steps
    assert list(steps["samples"]) == [64] * 4
    assert list(steps["measured_samples"]) == [64, 32, 16, 64]
    assert list(steps["extent"].isna()) == [True, False, False, True]
    assert steps["extent"][1].startswith("measured on 32 of 64 samples, to stay within overhead")
    assert "16 of 64 samples and one of 4 parts of the layers" in steps["extent"][2]


def test_steps_without_samples_have_no_number_of_them(tmp_path: Path) -> None:
    fit = Fit(in_proportion(0.1), every=1, quantities=("grad_norm",)).train(2)
    steps = _read(fit, tmp_path).steps
    assert np.isnan(steps[["samples", "measured_samples"]].to_numpy()).all()
    assert steps["extent"].isna().all()

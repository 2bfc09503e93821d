"""The benchmark script on a workload that takes no time: that it runs, checks and reports."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from jacoscope import SensitivityMonitor

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    threads = torch.get_num_threads()
    yield importlib.import_module("benchmark")
    torch.set_num_threads(threads)


def _run(benchmark: Any, folder: Path, *options: str) -> dict[str, Any]:
    figures = folder / "figures.json"
    page = folder / "page.md"
    common = ["--workloads", "tiny", "--rounds", "1", "--threads", "1", "--no-memory"]
    files = ["--json", str(figures), "--markdown", str(page)]
    assert benchmark.main([*options, *common, *files]) == 0
    found: dict[str, Any] = json.loads(figures.read_text())
    return found


def test_results_are_checked_and_written_between_the_markers(
    benchmark: Any, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "above\n<!-- benchmark: peers -->\nold\n<!-- end of benchmark: peers -->\nbelow\n"
    )
    tools = ("jacoscope", "torch.func", "grad_norm", "plain again", "TorchJD")
    found = _run(benchmark, tmp_path, "--contenders", *tools)
    entries = found["peers"]["tiny"]["entries"]
    able = [entry for entry in entries if entry["failure"] is None]
    assert {entry["tool"] for entry in able} >= set(tools[:4])
    for entry in able:
        assert entry["error"] < 1e-5
        assert entry["ratio"] > 0
        assert len(entry["seconds"]) == entry["rounds"] == 1
        assert entry["ratio"] == entry["ratios"][0]
    for entry in entries:
        assert entry["failure"] in (None, "torchjd is not installed")
    assert len(found["peers"]["tiny"]["plain_seconds"]) == 1
    lightning = f"lightning {importlib.metadata.version('lightning')}"
    assert lightning in [entry["version"] for entry in entries]
    written = page.read_text()
    assert written.startswith("above\n<!-- benchmark: peers -->\n")
    assert written.endswith("<!-- end of benchmark: peers -->\nbelow\n")
    assert "old" not in written
    assert "| **jacoscope** |" in written
    assert f"{lightning}\n" in written.partition("- versions: ")[2]


def test_a_wrong_result_and_a_failure_are_told(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contenders = importlib.import_module("benchmarking.contenders")

    class Wrong(contenders.TorchFunc):  # type: ignore[misc, name-defined]
        @property
        def scale(self) -> float:
            return 1.0

    class Unable(contenders.TorchFunc):  # type: ignore[misc, name-defined]
        def run(self) -> None:
            raise NotImplementedError("no such layer")

    class Unreadable(contenders.Jacoscope):  # type: ignore[misc, name-defined]
        def found(self) -> dict[str, torch.Tensor]:
            raise RuntimeError("nothing was kept")

    class WithoutGradient(contenders.Jacoscope):  # type: ignore[misc, name-defined]
        def gradient(self) -> torch.Tensor:
            return torch.empty(0)

    class Nothing(contenders.Histograms):  # type: ignore[misc, name-defined]
        def found(self) -> dict[str, torch.Tensor]:
            return {}

    class NotNumbers(contenders.Jacoscope):  # type: ignore[misc, name-defined]
        def found(self) -> dict[str, torch.Tensor]:
            found: dict[str, torch.Tensor] = super().found()
            return {name: value * math.nan for name, value in found.items()}

    faulty = {"wrong": Wrong, "unable": Unable, "unreadable": Unreadable, "empty": WithoutGradient}
    faulty |= {"nothing": Nothing, "not numbers": NotNumbers}
    for name, kind in faulty.items():
        monkeypatch.setitem(contenders.TOOLS, name, kind)
    _run(benchmark, tmp_path, "--contenders", "jacoscope", *faulty)
    written = (tmp_path / "page.md").read_text()
    assert "**wrong: " in written
    assert "- unable: NotImplementedError: no such layer" in written
    assert "- unreadable: RuntimeError: nothing was kept" in written
    assert "| empty | fails | fails | fails | fails |  |" in written
    assert "- empty: ValueError: its gradient has the shape (0,) instead of (148,)" in written
    assert "- nothing: ValueError: its result has no gradient sums" in written
    assert "| not numbers |" in written
    assert "| **wrong: nan** |" in written
    # What is wrong is nobody's best peer.
    bounds = written.partition("<!-- benchmark: bounds -->")[2]
    assert bounds.count("| none |") == 4


def test_what_was_measured_before_stays(benchmark: Any, tmp_path: Path) -> None:
    add = importlib.import_module("benchmarking.figures").add
    report = importlib.import_module("benchmarking.report")
    kept = {"old tool": 7.0, "jacoscope": 3.0, "BackPACK": 2.0}
    figures: dict[str, Any] = {}
    add(figures, "peers", {"MLP": _compared(kept, machine="one"), "CNN": _compared(kept)})
    add(figures, "peers", {"MLP": _compared({"grad_norm": 1.1, "jacoscope": 1.5}, machine="two")})
    assert list(figures["peers"]) == ["MLP", "CNN"]
    ratios = {entry["tool"]: entry["ratio"] for entry in figures["peers"]["MLP"]["entries"]}
    assert list(ratios) == ["jacoscope", "BackPACK", "grad_norm", "old tool"]
    assert ratios == {"jacoscope": 1.5, "BackPACK": 2.0, "grad_norm": 1.1, "old tool": 7.0}
    written = report.render(figures)
    assert "; two\n" in written["peers"]
    assert "- on one: BackPACK, old tool\n" in written["peers"]
    assert "1.50 (1.50 to 1.50) | 1.00 | none |" in written["bounds"]  # of the same machine
    assert "| 2.00 (BackPACK) |" in written["bounds"]  # CNN's
    other = _compared({"grad_norm": 1.1}) | {"samples": 3}  # not the same workload any more
    add(figures, "peers", {"MLP": other})
    assert [entry["tool"] for entry in figures["peers"]["MLP"]["entries"]] == ["grad_norm"]


def _compared(ratios: dict[str, float], machine: str = "one") -> dict[str, Any]:
    """A workload's figures in the form that files written before have."""
    entries = []
    for tool, ratio in ratios.items():
        want = "batch gradient" if tool == "grad_norm" else "norms"
        entry = {"tool": tool, "want": want, "failure": None, "ratio": ratio, "error": 1e-7}
        entries.append(entry | {"low": ratio, "high": ratio, "products": 1.0, "first": 1.0})
    return {
        "about": "some",
        "samples": 2,
        "scalars": 10,
        "rounds": 9,
        "plain_ms": 1.0,
        "plain_products": 100,
        "entries": entries,
        "machine": machine,
    }


def test_what_is_not_a_number_is_wrong_whatever_stands_beside_it(benchmark: Any) -> None:
    report = importlib.import_module("benchmarking.report")
    for errors in ((1e-7, math.nan), (math.nan, 1e-7), (math.inf, math.nan)):
        found = _compared({"jacoscope": 1.5})
        one = found["entries"][0]
        wants = ("norms", "norms + Gram")
        pairs = zip(wants, errors, strict=True)
        found["entries"] = [{**one, "want": want, "error": error} for want, error in pairs]
        written = report.render({"peers": {"MLP": found}})
        assert "**wrong: " in written["peers"]
        assert "| no: the result is wrong" in written["bounds"]


def test_help_says_where_tools_and_workloads_are_added(
    benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (SCRIPTS.parent / "docs" / "speed.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        benchmark.main(["--help"])
    for text in (page, " ".join(capsys.readouterr().out.split())):
        assert "--workloads tiny --no-memory" in text
        assert re.search(r"\bMAKERS\b", text)
        assert re.search(r"\bTOOLS\b", text)


def test_fewer_rounds_of_slow_tools_and_versions_are_told(benchmark: Any) -> None:
    report = importlib.import_module("benchmarking.report")
    found = _compared({"jacoscope": 1.5, "Opacus hooks": 30.0, "BackPACK": 1.2})
    assert "- " not in report.render({"peers": {"MLP": found}})["peers"].replace("--- ", "")
    ours, slow, quick = found["entries"]
    found["entries"].append({**quick, "want": "norms + columns", "rounds": 5})
    ours |= {"rounds": 9, "version": "jacoscope 1.0"}
    slow |= {"rounds": 5, "version": "opacus 1.6"}
    quick |= {"version": None}
    written = report.render({"peers": {"MLP": found}})["peers"]
    assert ", 9 rounds; one\n" in written
    assert "- 5 rounds: Opacus hooks, BackPACK (norms + columns)\n" in written
    assert "- versions: jacoscope 1.0, opacus 1.6\n" in written


def test_whole_runs_and_steps_that_were_measured_before_stay(benchmark: Any) -> None:
    add = importlib.import_module("benchmarking.figures").add
    report = importlib.import_module("benchmarking.report")
    figures: dict[str, Any] = {}
    for name, machine, ratio in (("MLP", "one", 1.1), ("CNN", "two", 1.2), ("CNN", "two", 1.3)):
        step = {"about": name, "scalars": 1, "plain_ms": 1.0, "ratios": {"default": ratio}}
        rest = {"other_us": 0.2, "write_s": 1.0, "write_mb": 1.0, "machine": machine}
        add(figures, "monitor", {"steps": {name: step}} | rest)
        row = {"experiment": name, "watched": "all", "epochs": None, "plain_s": 1.0}
        row |= {"ratios": [ratio], "cpu_ratios": [ratio]}
        add(figures, "fit", {"rows": [row], "machine": machine})
        add(figures, "profile", {name: {"wants": {}, "machine": machine}})
    written = report.render(figures)
    assert "| MLP | 1 | 1.0 ms | 1.10 |\n| CNN | 1 | 1.0 ms | 1.30 |" in written["monitor"]
    assert "| MLP | all | 1.0 s | 1.100 (1.100 to 1.100) | 1.100 |" in written["fit"]
    assert "| CNN | all | 1.0 s | 1.300 (1.300 to 1.300) | 1.300 |" in written["fit"]
    assert "1.200" not in written["fit"]
    assert all(text.startswith("*one; two*") for text in written.values())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--workloads", "tny"], "not among MAKERS of .*workloads.py; did you mean 'tiny'?"),
        (["--contenders", "jacoskope"], "not among TOOLS of .*contenders.py; did you mean 'jaco"),
        (["fit", "--experiments", "nope"], "'nope' is not among the files in configs/; .*digits_"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--json", "{folder}/broken.json"], "broken.json cannot be read as JSON .* mend or"),
        (["--json", "{folder}/list.json"], "list.json is not a file of figures"),
        (["--json", "{folder}/none/new.json"], "new.json cannot be written .No such file"),
        (["--json", "{folder}"], "cannot be read as JSON .*Is a directory"),
        (["--markdown", "{folder}"], "cannot be written .Is a directory"),
        (["--figure", "{folder}/new.png"], "--figure draws the part scaling, of which there is"),
        (["report", "--json", "{folder}/new.json"], "report needs --json with a file of figures"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(
    benchmark: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: Sequence[str],
    told: str,
) -> None:
    monkeypatch.setattr(benchmark, "_measure", lambda *_: pytest.fail("it is measured"))
    (tmp_path / "broken.json").write_text('{"peers": ')
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(SystemExit):
        benchmark.main([option.format(folder=tmp_path) for option in options])
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(told, last)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.json", "list.json"]


def test_a_file_that_can_be_written_is_left_alone(benchmark: Any, tmp_path: Path) -> None:
    figures = importlib.import_module("benchmarking.figures")
    (tmp_path / "old.json").write_text('{"peers": {}}')
    for name in ("old.json", "new.json"):
        figures.check_writable(tmp_path / name)
    assert figures.read(tmp_path / "old.json") == {"peers": {}}
    assert not (tmp_path / "new.json").exists()


@pytest.mark.parametrize("tool", ["slow", "lingering", "failing", None])
def test_whoever_takes_part_the_plain_run_is_timed(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, tool: str | None
) -> None:
    contenders = importlib.import_module("benchmarking.contenders")
    rounds = importlib.import_module("benchmarking.rounds")

    class Some(contenders.Plain):  # type: ignore[misc, name-defined]
        lingers = tool == "lingering"

        def run(self) -> None:
            super().run()
            if tool == "failing":
                raise RuntimeError

    monkeypatch.setattr(rounds, "_SLOW", -1 if tool == "slow" else math.inf)
    workload = _tiny()
    label = "some", "batch gradient"
    each = {label: Some(workload, label[1])} if tool else {}
    plain = contenders.Plain(workload, label[1])
    plain_seconds, timings = rounds.in_turn(plain, each, "cpu", 7, "tiny")
    assert len(plain_seconds) == (5 if tool in ("slow", "lingering") else 7)
    counts = {name: len(timing.ratios) for name, timing in timings.items()}
    assert counts == ({label: 0 if tool == "failing" else 5} if tool else {})


def test_parts_of_a_capture_are_told_apart(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiling = importlib.import_module("benchmarking.profiling")
    monkeypatch.setattr(profiling, "WANTS", {"all three": profiling.WANTS["all three"]})
    found = _run(benchmark, tmp_path, "profile")["profile"]["tiny"]
    for each in found["wants"].values():
        parts = each["parts"]
        assert parts["measuring"] > 0
        assert parts["comparing"] > 0
    written = (tmp_path / "page.md").read_text()
    assert "| added by a capture | measuring | comparing | the rest |" in written
    assert f"find nothing out by themselves, add {found['by_hand']:.0%}." in written


def test_what_is_written_out_by_hand_is_right(benchmark: Any) -> None:
    workload = importlib.import_module("benchmarking.workloads").make("tiny", "cpu")
    by_hand = importlib.import_module("benchmarking.by_hand").ByHand
    expected = importlib.import_module("benchmarking.contenders").Jacoscope
    assert by_hand.suits(workload.model)
    assert not by_hand.suits(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)))
    runs = [each(workload, "norms") for each in (by_hand, expected)]
    for each in runs:
        each.run()
    assert runs[0].error < 1e-5
    torch.testing.assert_close(runs[0].found()["norms"], runs[1].found()["norms"])


def test_whole_runs_are_compared_within_a_round(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = importlib.import_module("benchmarking.fits")
    report = importlib.import_module("benchmarking.report")
    # By the clock and of the processor, of which the machine is slow in the second round.
    times = iter([(50, 40), (51, 40.4), (500, 40), (515, 40.4), (50, 40), (52, 41.2)])
    pair = lambda *_: [fits._Time(*next(times)) for _ in range(2)]  # noqa: E731
    monkeypatch.setattr(fits, "_in_turns", pair)
    rows = fits.whole_fits(["digits_cnn"], rounds=3)
    assert rows[0]["ratios"] == pytest.approx([1.02, 1.03, 1.04])
    written = report.render({"fit": {"rows": rows, "machine": "one"}})["fit"]
    assert "| digits_cnn | as shipped | 50.0 s | 1.030 (1.020 to 1.040) | 1.010 |" in written


def test_a_whole_run_is_the_experiment_s_own(benchmark: Any) -> None:
    """With the callback it captures as its file says; without, it has no callback of ours."""
    fits = importlib.import_module("benchmarking.fits")
    seen = []

    class Trained(Exception):
        pass

    def fit(trainer: Any, *_: Any, **__: Any) -> None:
        seen.append([each for each in trainer.callbacks if isinstance(each, SensitivityMonitor)])
        raise Trained

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "fit", fit)
        patch.setattr(fits._Turns, "wait", lambda _: None)
        for watched in (None, (), fits._ALL):
            with pytest.raises(Trained):
                fits._fit("topics_transformer", 1, watched)
    none, (shipped,), (parameters,) = seen
    assert none == []
    assert shipped.config.schedule.every == 20
    assert shipped.config.layers
    assert parameters.config.schedule.every == 1
    assert not parameters.config.layers
    assert len(parameters.config.quantities) > 11


# Is ready, stops once for the other, and tells which of the runs it is as its time.
_RUN = """
import sys
for line in "", "noise", "benchmark:":
    print(line, flush=True)
sys.stdin.readline()
print("benchmark:", flush=True)
sys.stdin.readline()
print('benchmark:{{"wall": {0}, "cpu": {0}}}', flush=True)
sys.stdin.readline()
"""


def _process(code: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)


def test_whole_runs_go_on_in_turn(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = importlib.import_module("benchmarking.fits")
    begun: list[Any] = []
    told: list[tuple[int, bool]] = []
    answer = fits._answer

    def started(name: str, epochs: int | None, watched: Any) -> Any:
        begun.append(_process(_RUN.format(len(begun) + 1)))
        return begun[-1]

    def noted(run: Any, word: str = "") -> str:
        found: str = answer(run, word)
        told.append((begun.index(run), bool(found)))
        return found

    monkeypatch.setattr(fits, "_started", started)
    monkeypatch.setattr(fits, "_answer", noted)
    times = fits._in_turns("any", 1, [None, ()])
    # Each says that it is ready, stops once, and tells its time; who was last is first.
    ready, stops, ends = told[:2], told[2:4], told[4:]
    assert ready == stops == [(0, False), (1, False)]
    assert ends == [(1, True), (0, True)]
    assert [(each.wall, each.cpu) for each in times] == [(1, 1), (2, 2)]


def test_a_run_that_ends_early_is_told(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = importlib.import_module("benchmarking.fits")
    monkeypatch.setattr(fits, "_started", lambda *_: _process("raise SystemExit(3)"))
    with pytest.raises(RuntimeError, match="a run ended early, with exit code 3"):
        fits._in_turns("any", 1, [None])


def test_a_whole_run_waits_for_its_turns(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What waits on standard input is not counted; every tenth step waits."""
    fits = importlib.import_module("benchmarking.fits")
    turns: list[float] = []

    class Slow:
        def readline(self) -> str:
            time.sleep(0.1)
            turns.append(time.perf_counter())
            return "go on"

    monkeypatch.setattr(sys, "stdin", Slow())
    found = fits._fit("digits_mlp", 1, None)
    assert len(turns) == 5  # before the first of 45 steps, the tenth, the twentieth …
    assert 0 < found.wall < time.perf_counter() - turns[0] - 4 * 0.1
    assert found.cpu > 0
    assert capsys.readouterr().out.splitlines().count("benchmark:") == 5


def test_a_whole_run_tells_its_time(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What its process is given to do, done here with a run that takes no time."""
    fits = importlib.import_module("benchmarking.fits")
    given: list[Any] = []

    def fit(*arguments: Any) -> Any:
        given.append(arguments)
        return fits._Time(1.5, 2.5)

    monkeypatch.setattr(fits, "_fit", fit)
    monkeypatch.setattr(fits.subprocess, "Popen", lambda command, **_: command)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys, "path", list(sys.path))
    for watched in (None, ("--monitor.layers=[]",)):
        command: Any = fits._started("digits_cnn", 2, watched)
        assert command[0] == sys.executable
        exec(command[-1], {})
    assert given == [("digits_cnn", 2, None), ("digits_cnn", 2, ["--monitor.layers=[]"])]
    assert capsys.readouterr().out == 2 * 'benchmark:{"wall": 1.5, "cpu": 2.5}\n'


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("speed.md", ("peers", "bounds", "profile", "monitor", "fit", "scaling")),
        ("speed-avx2.md", ("peers", "bounds")),
    ],
)
def test_the_pages_on_speed_have_a_place_for_every_part(name: str, parts: Sequence[str]) -> None:
    page = (SCRIPTS.parent / "docs" / name).read_text(encoding="utf-8")
    for part in parts:
        assert page.count(f"<!-- benchmark: {part} -->") == 1
        assert page.count(f"<!-- end of benchmark: {part} -->") == 1


WANTED = ("norms", "gram", "columns", "gradient norms", "gradient sums", "gradient")


@pytest.mark.parametrize("want", WANTED)
@pytest.mark.parametrize("planted", [1.1, math.nan, math.inf])
def test_the_reference_is_not_fooled(benchmark: Any, want: str, planted: float) -> None:
    checking = importlib.import_module("benchmarking.checking")
    reference = checking.Reference(_tiny())
    assert reference.error(*_parted(_right()), WANTED[:-1]) < 1e-12
    wrong = _right()
    wrong[want] = wrong[want].clone()
    # The last parameters' gradients sum to zero, as a softmax's do.
    wrong[want].view(-1)[0 if want == "gradient sums" else -1] *= planted
    error = reference.error(*_parted(wrong))
    assert not error <= checking.TOLERANCE


@pytest.mark.parametrize("want", WANTED)
def test_a_result_left_out_or_of_another_shape_is_refused(benchmark: Any, want: str) -> None:
    reference = importlib.import_module("benchmarking.checking").Reference(_tiny())
    found, gradient_P = _parted(_right())
    needed = list(found)
    column = _right()[want][..., None]
    with pytest.raises(ValueError, match=f"its {want} has the shape"):
        reference.error(*_parted({**found, "gradient": gradient_P, want: column}), needed)
    if want == "gradient":
        return
    del found[want]
    with pytest.raises(ValueError, match=f"its result has no {want}"):
        reference.error(found, gradient_P, needed)
    with pytest.raises(ValueError, match=f"did you mean '{want}'"):
        reference.error({want + "s!": column}, gradient_P)


def test_a_sample_without_a_gradient_is_no_error(benchmark: Any) -> None:
    reference = importlib.import_module("benchmarking.checking").Reference(_tiny())
    found, gradient_P = _parted(_right())
    for zeros in (reference.norms_N[:1], found["norms"][:1]):
        zeros.zero_()
    found = {"norms": found["norms"]}
    assert reference.error(found, gradient_P) < 1e-12
    found["norms"][0] = 1
    assert reference.error(found, gradient_P) == math.inf


def _tiny() -> Any:
    return importlib.import_module("benchmarking.workloads").make("tiny", "cpu")


def _parted(
    results: dict[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return {k: value for k, value in results.items() if k != "gradient"}, results["gradient"]


def _right() -> dict[str, torch.Tensor]:
    """All results of the tiny workload, and its gradient."""
    workload = _tiny()
    rows_NP = _rows(workload)
    gradient_P = rows_NP.sum(0)
    each = gradient_P.split([parameter.numel() for parameter in workload.model.parameters()])
    return {
        "norms": rows_NP.square().sum(1),
        "gram": rows_NP @ rows_NP.T,
        "columns": rows_NP.square().sum(0),
        "gradient norms": torch.stack([one.norm() for one in each]),
        "gradient sums": torch.stack([one.sum() for one in each]),
        "gradient": gradient_P,
    }


def _rows(workload: Any) -> torch.Tensor:
    """All rows by one forward of the whole batch and a backward of each sample's loss."""
    model = workload.model.double()
    outputs = model(workload.inputs.double())
    losses = torch.nn.functional.cross_entropy(outputs, workload.targets, reduction="none")
    parameters = list(model.parameters())
    rows = []
    for loss in losses / len(losses):
        each = torch.autograd.grad(loss, parameters, retain_graph=True)
        rows.append(torch.cat([one.flatten() for one in each]))
    return torch.stack(rows)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel keeps no mark")
def test_memory_is_the_peak_of_one_run(benchmark: Any) -> None:
    contenders = importlib.import_module("benchmarking.contenders")
    growth = importlib.import_module("benchmarking.growth")
    workload = importlib.import_module("benchmarking.workloads").make("tiny", "cpu")

    class Large(contenders.Plain):  # type: ignore[misc, name-defined]
        runs = 0

        def run(self) -> None:
            self.runs += 1
            warms_up = self.runs <= growth.WARM_UP
            torch.ones(2**20 * (40 if warms_up else 16))
            torch.ones(2**20 * 16)

    grown = growth.growth_here(Large(workload, "batch gradient"), "cpu")
    assert 60 * 2**20 < grown < 90 * 2**20


@pytest.mark.parametrize("groups", [1, 4])
def test_products_of_a_grouped_convolution_are_counted_by_its_groups(
    benchmark: Any, groups: int
) -> None:
    rounds = importlib.import_module("benchmarking.rounds")
    layer = torch.nn.Conv2d(4, 8, 3, padding=1, groups=groups)
    outputs = layer(torch.randn(2, 4, 8, 8, requires_grad=True))
    products = rounds.products(lambda: torch.autograd.backward(outputs.sum()))
    # For the inputs and for the weights: 128 places, 8 outputs of 4 / groups inputs of 3 × 3.
    assert products == 2 * (2 * 128 * 8 * (4 // groups) * 9)

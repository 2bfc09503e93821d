"""What jacoscope costs, beside other tools for the same result, and how that grows.

    pip install -c constraints.txt -e '.[bench]'
    pip install -c constraints.txt --no-deps backpack-for-pytorch   # its own would pull torchvision
    python scripts/benchmark.py                  # jacoscope.capture and its peers
    python scripts/benchmark.py --workloads tiny --no-memory    # tries all tools, a minute
    python scripts/benchmark.py monitor          # the monitor's whole steps, and writing
    python scripts/benchmark.py fit              # whole runs of shipped experiments, minutes
    python scripts/benchmark.py scaling --figure docs/images/scaling.png
    python scripts/benchmark.py profile          # operators that take a captured step's time
    python scripts/benchmark.py report --json figures.json --markdown docs/speed.md

Plain and other runs take turns in one process, so that a noisy machine disturbs all alike; figures
are medians over rounds of the ratio within a round. Three rounds of ``fit`` take about a quarter of
an hour on two cores; ``--rounds 1`` or ``--experiments digits_cnn`` take less. Every result of each
tool is compared with plain autograd, sample by sample in double precision. Peers that are not
installed, or cannot run a workload, say so in the table.

With ``--json`` figures are added to those that the file has, so that a long comparison can be made
workload by workload and tool by tool: what is measured again takes the place of what was, all else
stays, with the machine that it was measured on; ``scaling`` is made as a whole. With ``--markdown``
they are written as tables, between the page's markers where it has some:
``<!-- benchmark: peers -->`` … ``<!-- end of benchmark: peers -->``.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarking.contenders import TOOLS
from benchmarking.figures import add, check_writable, read
from benchmarking.report import machine, render, write
from benchmarking.workloads import DEFAULT, MAKERS
from jacoscope.errors import nearest

ROUNDS = {"peers": 20, "monitor": 30, "fit": 3, "scaling": 10, "profile": 10}
PARTS = (*ROUNDS, "report")
CONFIGS = Path(__file__).parents[1] / "configs"
FOLDER = "scripts/benchmarking"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a part, print it, and write it where asked; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        figures = _checked(options)
    except ValueError as error:
        parser.error(str(error))
    if options.threads:
        torch.set_num_threads(options.threads)
    # Full single precision, as the checks have it.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    warnings.filterwarnings("ignore", "Full backward hook is firing")  # of Opacus' hooks
    if options.part != "report":
        _measure(options, figures)
    shown = render(figures if options.part == "report" else _part(figures, options))
    print("\n".join(shown.values()))
    if options.part != "report":
        _save(figures, options.json)
    if options.markdown:
        write(render(figures), options.markdown)
    if options.figure:
        from benchmarking.pictures import draw

        draw(figures["scaling"], options.figure)
    return 0


def _measure(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Measure one part into the figures."""
    rounds = options.rounds or ROUNDS[options.part]
    where = {"machine": machine(options.device)}
    if options.part == "peers":
        from benchmarking.peers import compare

        tools = options.contenders or list(TOOLS)
        for name in options.workloads:
            found = compare(name, tools, options.device, rounds, not options.no_memory)
            add(figures, "peers", {name: found | where})
            _save(figures, options.json)  # what is measured stays if a later workload is stopped
    elif options.part == "monitor":
        from benchmarking.monitoring import captured_steps, other_steps, writing

        steps = captured_steps(options.workloads, options.device, rounds)
        seconds, megabytes = writing()
        found = {"steps": steps, "other_us": other_steps()}
        add(figures, "monitor", found | {"write_s": seconds, "write_mb": megabytes} | where)
    elif options.part == "fit":
        from benchmarking.fits import EXPERIMENTS, whole_fits

        names = options.experiments or EXPERIMENTS
        add(figures, "fit", {"rows": whole_fits(names, rounds, options.epochs)} | where)
    elif options.part == "profile":
        from benchmarking.profiling import profiles

        for name in options.workloads:
            add(figures, "profile", {name: profiles(name, options.device, rounds) | where})
    else:
        from benchmarking.scaling import scaling

        found = scaling(options.device, rounds, not options.no_memory)
        add(figures, "scaling", found | where)


def _save(figures: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _part(figures: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """What was measured just now."""
    if options.part in ("peers", "profile"):
        measured = figures[options.part]
        return {options.part: {name: measured[name] for name in options.workloads}}
    return {options.part: figures[options.part]}


def _checked(options: argparse.Namespace) -> dict[str, Any]:
    """Refuse what cannot be measured or written, before any of it is.

    Returns:
        The figures that the file has.
    """
    part, file = options.part, options.json
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda needs a CUDA device, and PyTorch finds none here")
    _check_names("--workloads", options.workloads, MAKERS, f"MAKERS of {FOLDER}/workloads.py")
    _check_names("--contenders", options.contenders, TOOLS, f"TOOLS of {FOLDER}/contenders.py")
    configs = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    _check_names("--experiments", options.experiments, configs, "the files in configs/")
    for name in ("rounds", "threads", "epochs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    there = file is not None and file.exists()
    if part == "report" and not there:
        raise ValueError("report needs --json with a file of figures")
    figures = read(file) if there else {}
    if options.figure and part != "scaling" and "scaling" not in figures:
        raise ValueError("--figure draws the part scaling, of which there is none")
    for path in (None if part == "report" else file, options.markdown, options.figure):
        if path is not None:
            check_writable(path)
    return figures


def _check_names(
    option: str, given: Sequence[str] | None, valid: Iterable[str], where: str
) -> None:
    names = list(valid)
    for name in given or ():
        if name not in names:
            raise ValueError(f"{option}: {name!r} is not among {where}; {nearest(name, names)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=PARTS, default="peers", help="what to measure")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--workloads",
        nargs="+",
        default=list(DEFAULT),
        metavar="NAME",
        help=f"of {', '.join(MAKERS)}; {', '.join(DEFAULT)} by default; a new one is a function "
        f"named in MAKERS of {FOLDER}/workloads.py",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        metavar="TOOL",
        help=f"of {', '.join(TOOLS)}; all by default; a new one is a class named in TOOLS of "
        f"{FOLDER}/contenders.py",
    )
    counts = ", ".join(f"{part} {count}" for part, count in ROUNDS.items())
    parser.add_argument("--rounds", type=int, help=f"rounds that count; by default {counts}")
    parser.add_argument(
        "--threads", type=int, help="processor threads; PyTorch's choice by default"
    )
    parser.add_argument("--epochs", type=int, help="of fit, if not the experiments' own")
    parser.add_argument(
        "--experiments", nargs="+", metavar="NAME", help="of fit: files in configs/"
    )
    parser.add_argument(
        "--no-memory",
        action="store_true",
        help="leave peak memory out, for which every tool and result starts a process: seconds "
        "each, and minutes in all, whatever the workload",
    )
    parser.add_argument("--json", type=Path, help="file of figures, read if it exists, and written")
    parser.add_argument("--markdown", type=Path, help="page to write the tables into")
    parser.add_argument("--figure", type=Path, help="PNG to draw the scaling curves into")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

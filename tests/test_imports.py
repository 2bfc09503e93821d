"""Data flows one way, and so do imports; the source is read, not run."""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import jacoscope

_ROOT = Path(jacoscope.__file__).parent

# A module may import from those before it, and a package's modules from one another.
_ORDER = [
    *(
        "config",
        "sharding",
        "selection",
        "schedule",
        "extent",
        "pacing",
        "adapting",
        "batches",
        "jacobian",
        "capturing",
        "probing",
        "quantities",
        "reduction",
        "processes",
        "record",
        "leaderboard",
        "plan",
    ),
    *(
        "inspection",
        "measuring",
        "groups",
        "ranges",
        "sample_backward",
        "sample_results",
        "captured_samples",
        "gathering",
        "captured_step",
        "shard_gathering",
        "transit",
        "agenda",
        "opening",
        "probe_record",
        "alerts",
        "probe_plan",
        "probe_copies",
        "output_probe",
        "loss_probe",
        "probe_session",
        "probe_faults",
        "prober",
        "sinks",
        "recorder",
        "monitor",
        "huggingface",
        "_lightning",
        "_sampler",
        "_training_loss",
        "_state_key",
        "_verifying",
        "_mistakes",
        "callback",
        "_lightning_cli",
        "cli",
        "__main__",
    ),
]
# These hold no data and import nothing of ours, so that all may import them.
_FREE = ["_version", "errors", "faults", "filled_bins", "memory", "packed_text", "schema"]
# What stands beside the flow, by what it may import.
_BESIDE: dict[str, list[str]] = {
    "reader": ["errors", "filled_bins", "packed_text", "schema"],
    "board": ["errors", "filled_bins", "packed_text", "schema", "_version"],
    "demos": [],
    "__init__": [
        *("alerts", "config", "errors", "faults", "_version", "capturing", "probing"),
        *("monitor", "reader", "callback"),
    ],
}
# The command line starts what stands beside the flow.
_STARTS = {"cli": ["board"]}
_WITH_LIGHTNING = [
    *("_lightning", "_sampler", "_training_loss", "_verifying", "callback", "_lightning_cli"),
    "demos",
]
_LIGHTNING = ("lightning", "pytorch_lightning", "lightning_fabric")


def _allowed(unit: str) -> set[str]:
    """The parts of the package that ``unit`` may import."""
    if unit in _FREE:
        return set()
    if unit in _BESIDE:
        return {unit, *_BESIDE[unit]}
    return {*_FREE, *_ORDER[: _ORDER.index(unit) + 1], *_STARTS.get(unit, [])}


def _modules() -> list[tuple[str, Path]]:
    """Every module of the package: its dotted path within it, and its file."""
    paths = sorted(_ROOT.rglob("*.py"))
    return [(".".join(path.relative_to(_ROOT).with_suffix("").parts), path) for path in paths]


def _imports(source: str) -> Iterator[str]:
    """Dotted names of all that ``source`` imports, for types only and inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: write the import in full"
            assert node.module is not None
            yield node.module
            if node.module == "jacoscope":  # from jacoscope import record
                yield from (f"jacoscope.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("import_module", "__import__"):
                yield str(node.args[0].value)


def _violations(module: str, imported: Iterable[str]) -> list[str]:
    """What ``module`` imports and must not, each with the reason."""
    unit = module.split(".")[0]
    found = []
    for name in imported:
        top, _, inner = name.partition(".")
        if top in _LIGHTNING and unit not in _WITH_LIGHTNING:
            found.append(f"{module} imports {name}, which is left to {', '.join(_WITH_LIGHTNING)}")
        if top != "jacoscope":
            continue
        target, _, private = inner.partition(".")
        if not target:
            found.append(f"{module} imports the package itself, which imports everything")
        elif target not in _allowed(unit):
            found.append(f"{module} imports {name}, which comes later or is beside the flow")
        elif private.startswith("_") and target != unit:
            found.append(f"{module} imports {name}, which is private to {target}")
    return found


@pytest.mark.parametrize(
    ("module", "path"), _modules(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_go_one_way(module: str, path: Path) -> None:
    unit = module.split(".")[0]
    assert unit in (*_ORDER, *_FREE, *_BESIDE), f"give {unit} its place in the order"
    imported = [*_imports(path.read_text(encoding="utf-8"))]
    if module == "__init__":
        imported = [name for name in imported if name not in ("jacoscope", "jacoscope.__version__")]
    assert _violations(module, imported) == []


def test_the_order_names_what_is_there() -> None:
    units = {module.split(".")[0] for module, _ in _modules()}
    assert units == {*_ORDER, *_FREE, *_BESIDE}


_CASES = [
    ("record", "from jacoscope.selection import Target", True),
    ("record", "from jacoscope.plan import Lane", False),
    ("record", "import jacoscope.sinks", False),
    ("record", "import jacoscope", False),
    ("record", "from jacoscope import selection", False),
    ("record", "from jacoscope import Monitor", False),
    ("record", "from jacoscope.selection._match import matches", False),
    ("selection._match", "from jacoscope.selection._select import select", True),
    ("selection._match", "from jacoscope.schedule import Timetable", False),
    ("selection._match", "from jacoscope.faults import Faults", True),
    ("config._load", "def f():\n    from jacoscope.selection import select", False),
    ("config._load", "import importlib\nimportlib.import_module('jacoscope.selection')", False),
    ("config._load", "if TYPE_CHECKING:\n    from jacoscope.monitor import Monitor", False),
    ("errors", "from jacoscope.config import Schedule", False),
    ("reader", "from jacoscope.errors import nearest", True),
    ("reader", "from jacoscope.schema import SCHEMA_VERSION", True),
    ("monitor", "from jacoscope.reader import read_run", False),
    ("monitor", "from jacoscope.callback import SensitivityMonitor", False),
    ("monitor", "from jacoscope.demos import MLP", False),
    ("monitor", "if TYPE_CHECKING:\n    from lightning.pytorch import Trainer", False),
    ("monitor", "import pytorch_lightning as pl", False),
    ("monitor", "__import__('lightning')", False),
    ("monitor", "import lightning_utilities", True),
    ("_lightning", "from lightning.pytorch import Trainer", True),
    ("_lightning", "from jacoscope.callback import SensitivityMonitor", False),
    ("callback", "from jacoscope._lightning import make_sinks", True),
    ("demos.tasks._classifier", "from lightning import LightningModule", True),
    ("demos.tasks._classifier", "from jacoscope.config import Schedule", False),
]


@pytest.mark.parametrize(("module", "source", "is_allowed"), _CASES)
def test_the_rule_itself(module: str, source: str, is_allowed: bool) -> None:
    assert (_violations(module, _imports(source)) == []) is is_allowed


def test_importing_jacoscope_brings_in_no_heavy_optional_package() -> None:
    heavy = [*_LIGHTNING, "matplotlib", "pandas", "transformers", "sklearn", "jsonargparse"]
    program = (
        "import sys, jacoscope\n"
        "from jacoscope import Monitor, MonitorConfig, read_run\n"
        f"print(*(name for name in {heavy} if name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


@pytest.mark.parametrize("name", jacoscope.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(jacoscope, name) is not None
    assert name in dir(jacoscope)


def test_public_names_are_sorted_and_come_once() -> None:
    assert len(set(jacoscope.__all__)) == len(jacoscope.__all__)
    assert sorted(jacoscope.__all__) == dir(jacoscope)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'jacoscope' has no attribute 'SensitivityMonitr'"):
        jacoscope.SensitivityMonitr  # noqa: B018

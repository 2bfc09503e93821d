"""What the package says that it needs is what it uses."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
# What the files of a part of the package may use beyond what every installation has.
EXTRAS_OF = {"demos": "demo", "huggingface.py": "huggingface"}
# Used where it is installed, or by type checkers alone.
NOT_NEEDED = {"pytorch_lightning", "_typeshed"}


def names(requirements: list[str]) -> set[str]:
    """The distributions that are required, as they are compared."""
    return {plain(re.match(r"[\w.-]+", each).group()) for each in requirements}  # type: ignore[union-attr]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def sources() -> list[Path]:
    return sorted((ROOT / "src" / "jacoscope").rglob("*.py"))


def test_what_is_imported_is_required() -> None:
    known = packages_distributions()
    core = names(PROJECT["project"]["dependencies"])
    missing = set()
    for path in sources():
        part = path.relative_to(ROOT / "src" / "jacoscope").parts[0]
        allowed = core | names(EXTRAS.get(EXTRAS_OF.get(part, ""), []))
        for module in set(imported(path)) - sys.stdlib_module_names - NOT_NEEDED - {"jacoscope"}:
            if not allowed & {plain(each) for each in known.get(module, [module])}:
                missing.add((str(path.relative_to(ROOT)), module))
    assert not missing


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_what_is_required_is_pinned(extra: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = names([line for line in lines if not line.startswith("#")])
    required = EXTRAS[extra] if extra else PROJECT["project"]["dependencies"]
    assert names(required) - pinned - {"jacoscope"} == set()


def test_the_tests_have_what_they_test() -> None:
    (own,) = [each for each in EXTRAS["test"] if each.startswith("jacoscope[")]
    assert set(own.removeprefix("jacoscope[").removesuffix("]").split(",")) == set(
        EXTRAS_OF.values()
    )


def test_one_oldest_python() -> None:
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    classifiers = " ".join(PROJECT["project"]["classifiers"])
    minors = [int(minor) for minor in re.findall(r"Python :: 3\.(\d+)", classifiers)]
    assert f"3.{min(minors)}" == oldest
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")
    assert PROJECT["tool"]["mypy"]["python_version"] == oldest
    assert f"Python {oldest} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")

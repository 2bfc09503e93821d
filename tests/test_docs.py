"""The generated pages are what the code would generate now, and links lead somewhere."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import jacoscope
from jacoscope import read_run

ROOT = Path(__file__).parents[1]


def test_generated_pages_are_up_to_date() -> None:
    script = ROOT / "scripts" / "generate_docs.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_in_the_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_layout_in_contributing_is_that_of_the_tree() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "jacoscope"
    inside, beside = re.findall(r"\| place \| job \|\n\|---\|---\|\n((?:\|.*\n)+)", page)
    named = [name for row in inside.splitlines() for name in _names(row.split("|")[1])]
    assert [name for name in named if not (package / name).exists()] == []
    assert len(set(named)) == len(named)
    there = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in package.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there - {"__init__.py"} - set(named) == set()
    for name in [*_names(beside), *re.findall(r"`((?:tests|scripts|docs|configs)/[\w./]*)`", page)]:
        assert (ROOT / name).exists(), name


def _names(cell: str) -> list[str]:
    return re.findall(r"`([\w./]+(?:/|\.py))`", cell)


def test_every_config_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert path.name in readme, f"{path.name} is not described"


def test_the_page_on_samples_runs_as_written() -> None:
    page = (ROOT / "docs" / "samples.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    exec(blocks[0], names)
    again = "loss_of_a_new_forward = model(torch.randn(16, 3)).square().mean()\n"
    exec(again + blocks[1], names)


def test_the_page_on_probes_runs_as_written() -> None:
    page = (ROOT / "docs" / "probes.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)


def test_the_page_on_loops_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "loops.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    if not all(map(find_spec, ("transformers", "accelerate"))):
        blocks.pop()
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert len(read_run("runs/loop")["grad_norm"]) == 10
    if len(blocks) == 3:
        assert len(read_run("runs/trainer/jacoscope/version_0")["sample_grad_norm"]) == 8


@pytest.mark.parametrize("name", jacoscope.__all__)
def test_a_public_function_says_what_it_returns(name: str) -> None:
    public = getattr(jacoscope, name)
    if not inspect.isfunction(public):
        return
    says = inspect.getdoc(public) or ""
    assert "Returns:" in says or "Yields:" in says or public.__annotations__["return"] == "None"


def test_examples_in_docstrings_run() -> None:
    import doctest

    names = (
        *("capture", "verify", "Monitor", "output_jacobian", "neural_tangent_kernel"),
        *("input_jacobian", "layer_jacobian", "all_else_equal"),
    )
    for public in (getattr(jacoscope, name) for name in names):
        finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
        found = [test for test in finder.find(public, globs={}) if test.examples]
        assert found
        assert all(runner.run(test).failed == 0 for test in found)

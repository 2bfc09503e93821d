"""``jacoscope.verify`` and ``jacoscope verify``: the table that says what can be trusted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jacoscope
from jacoscope.capturing import _straight
from jacoscope.capturing.rules import RULES
from jacoscope.cli import main

_CONFIGS = Path(__file__).parents[1] / "configs"


def _model() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    return model, model(torch.randn(5, 4)).square().sum(1).mean()


def test_the_table_has_a_row_for_each_parameter() -> None:
    model, loss = _model()
    result = jacoscope.verify(loss, model, batch_size=5)
    assert result.ok
    assert result.coverage == 1
    assert result.coupled == ("1",)
    assert len(result.checked) == 3
    assert [row.parameter for row in result.rows] == [name for name, _ in model.named_parameters()]
    assert all(row.verdict == "exact" for row in result.rows)
    assert all(row.closure < 1e-5 and row.verification < 1e-5 for row in result.rows)
    text = str(result)
    for head in ("parameter", "rule", "layout", "closure", "verification", "verdict"):
        assert head in text.splitlines()[0]
    assert "6 of 6 parameters exact, 100.0% of scalars" in text
    assert "samples are coupled by 1" in text


def test_nothing_is_changed_and_the_graph_is_kept() -> None:
    model, loss = _model()
    state = torch.get_rng_state()
    jacoscope.verify(loss, model, batch_size=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and not p._backward_hooks for p in model.parameters())
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_wrong_rule_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[[Any], Any] = RULES["Addmm", 0]

    def wrong(use: Any) -> Any:
        term = right(use)
        return type(term)(term.rows.flip(0), term.magnitude)

    monkeypatch.setitem(RULES, ("Addmm", 0), wrong)
    monkeypatch.setattr(_straight, "_MATRIX", {})
    model, loss = _model()
    result = jacoscope.verify(loss, model, batch_size=5)
    assert not result.ok
    bad = {row.parameter: row.verdict for row in result.rows if row.reason}
    assert "3.bias" in bad
    assert "masked back-propagation" in bad["3.bias"]
    assert "withheld" in str(result)
    assert result.coverage < 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "give batch_size="),
        ({"batch_size": 0}, "batch_size must be an integer of 1 or more, got 0"),
        ({"batch_size": 5, "count": 0}, "count must be an integer of 1 or more, got 0"),
        ({"batch_size": 5, "parameters": ["0.wieght"]}, "did you mean '0.weight'?"),
        ({"samples": [0.5, 1.0]}, "samples must be one integer per row"),
        ({"samples": [0, -1]}, "integers from 0"),
    ],
)
def test_a_mistake_is_one_sentence(options: dict[str, Any], told: str) -> None:
    model, loss = _model()
    with pytest.raises(ValueError, match=r".+") as raised:
        jacoscope.verify(loss, model, **options)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def _verify(config: Path, folder: Path, *args: str) -> None:
    main(["verify", "--config", str(config), f"--trainer.default_root_dir={folder}", *args])


def test_the_command_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _verify(_CONFIGS / "digits_cnn.yaml", tmp_path)
    out = capsys.readouterr().out
    assert "10 of 10 parameters exact, 100.0% of scalars; 32 samples" in out
    assert "network.head.weight" in out


def test_the_command_fails_where_something_is_withheld(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        _verify(_CONFIGS / "digits_cnn.yaml", tmp_path, "--monitor.samples.batch_size=7")
    assert leaving.value.code == 1
    out = capsys.readouterr().out
    assert "0 of 10 parameters exact" in out
    assert "withheld: it is used where samples cannot be told apart" in out

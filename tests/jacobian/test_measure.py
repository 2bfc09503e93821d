"""Several wants in one go."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from jacoscope.jacobian import (
    WANTS,
    ConvolutionJacobian,
    DenseJacobian,
    Factor,
    Jacobian,
    OuterJacobian,
    PlacedJacobian,
    RankOneJacobian,
    ScatterJacobian,
    SumJacobian,
    measure,
)


def _structures() -> dict[str, Jacobian]:
    torch.manual_seed(0)
    normal = torch.randn
    outer = OuterJacobian(normal(4, 1, 3, 6), normal(4, 1, 3, 5), (6, 5))
    indices = torch.randint(-1, 6, (4, 7))
    scatter = ScatterJacobian(indices, normal(4, 7, 5), 6)
    images = normal(4, 1, 2, 5, 5), normal(4, 1, 3, 3, 3)
    return {
        "dense": DenseJacobian(normal(4, 6, 5)),
        "outer": outer,
        "outer of one term": OuterJacobian(normal(4, 1, 1, 6), normal(4, 1, 1, 5), (6, 5)),
        "rank one": RankOneJacobian(Factor(normal(4, 6)), Factor(normal(4, 5)), (6, 5)),
        "outer of many terms": OuterJacobian(normal(4, 2, 90, 3), normal(4, 2, 90, 5), (6, 5)),
        "convolution": ConvolutionJacobian(*images, (3, 2, 3, 3), (1, 1), (0, 0), (1, 1)),
        "scatter": scatter,
        "scatter over many": ScatterJacobian(indices * 1000, normal(4, 7, 200), 10**4),
        "sum": SumJacobian([outer, scatter]),
        "placed": PlacedJacobian(outer, lambda whole: whole[:, :6], (9, 5)),
    }


@pytest.mark.parametrize("name", _structures())
def test_same_as_one_by_one(name: str) -> None:
    jacobian = _structures()[name]
    found = measure(jacobian, WANTS)
    assert tuple(sorted(found)) == tuple(sorted(WANTS))
    for want, value in found.items():
        torch.testing.assert_close(value, getattr(jacobian, want)(), rtol=1e-4, atol=1e-4)


class _Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("budget", [1, 2**28])
@pytest.mark.parametrize("name", _structures())
def test_nothing_waits_for_the_device(name: str, budget: int) -> None:
    jacobian = _structures()[name]
    jacobian.memory_budget = budget
    v, u = torch.randn(jacobian.parameter_shape), torch.randn(4)
    left = torch.randn(jacobian.parameter_shape[0])
    right = torch.randn(jacobian.parameter_shape[1:].numel())
    with _Calls() as calls:
        measure(jacobian, WANTS)
        for want in WANTS:
            getattr(jacobian, want)()
        jacobian.matvec(v)
        jacobian.rmatvec(u)
        jacobian.probe(left, right)
        jacobian.magnitude()
    waiting = ("_local_scalar_dense", "nonzero", "unique", "item", "masked_select")
    assert not [call for call in calls.names if any(word in call for word in waiting)]


def test_makes_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = torch.randn(4, 1, 90, 6), torch.randn(4, 1, 90, 5)
    jacobian = OuterJacobian(left, right, (6, 5))
    made: list[object] = []
    rows = OuterJacobian._rows

    def count(self: OuterJacobian, index: Any) -> Tensor:
        made.append(index)
        return rows(self, index)

    monkeypatch.setattr(OuterJacobian, "_rows", count)
    measure(jacobian, WANTS)
    assert made == [slice(0, 4)]


def test_few_calls_for_one_term() -> None:
    jacobian = _structures()["rank one"]
    with _Calls() as calls:
        jacobian.row_sq_norms()
    computing = [name for name in calls.names if name not in ("aten.slice", "aten.view")]
    assert len(computing) == 4, computing  # two norms, their product, its square


def test_names_that_are_wrong() -> None:
    jacobian = _structures()["dense"]
    with pytest.raises(ValueError, match="did you mean 'gram'"):
        measure(jacobian, ["gramm"])
    assert measure(jacobian, []) == {}

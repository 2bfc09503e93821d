"""Per-sample quantities where squares leave the range of single precision."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jacoscope
from jacoscope import Monitor
from jacoscope.config import QuantityName
from jacoscope.jacobian import OuterJacobian
from jacoscope.quantities import SampleNeeds, measure_samples
from jacoscope.record import StepRecord
from jacoscope.sinks import MemorySink
from sample_training import PER_SAMPLE

Loss = Callable[[nn.Module, Tensor], Tensor]
_SIGNED = ("coherence", "pairwise", "cosine", "alignment", "noise", "diversity", "rank", "snr")


def capture(
    model: nn.Module, x: Tensor, loss: Loss, scales: Sequence[float], **samples: Any
) -> list[StepRecord]:
    """Records of captured steps in which nothing is learnt, one for each factor of the loss."""
    sink, optimizer = MemorySink(), torch.optim.SGD(model.parameters(), lr=0.0)
    config = {
        "quantities": list(PER_SAMPLE),
        "schedule": {"every": 1},
        "samples": {"batch_size": len(x), **samples},
    }
    with Monitor(model, config, sinks=[sink]) as monitor:
        for step, scale in enumerate(scales):
            monitor.begin_step(step)
            monitor.begin_batch((x, torch.arange(len(x)) % 2))
            optimizer.zero_grad()
            value = loss(model, x) * scale
            monitor.before_backward(value)
            value.backward()
            monitor.after_backward()
            monitor.before_optimizer_step(optimizer)
            optimizer.step()
            monitor.end_step()
    return sink.records


def values_of(record: StepRecord, quantity: str) -> dict[str, float]:
    found = next(each for each in record.records if each.quantity == quantity)
    return dict(zip(found.axis.names, found.values.tolist(), strict=True))


def missing_of(record: StepRecord, quantity: QuantityName) -> dict[str, str]:
    found = next(each for each in record.records if each.quantity == quantity)
    return dict(found.missing)


class Everything(nn.Module):
    """A lookup, a linear map with positions, a convolution, a weight used twice, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.linear = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.convolution = nn.Conv1d(6, 4, 3)
        self.twice = nn.Linear(4, 4)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(torch.tanh(self.linear(self.table(x))))
        y = torch.tanh(self.convolution(y.transpose(1, 2))).mean(2)
        return self.gain * self.twice(torch.tanh(self.twice(y)))


def compare(
    single: StepRecord, double: StepRecord, tolerance: float = 2e-3, least: int = 50
) -> None:
    """Whatever single precision tells is what double precision tells."""
    seen = 0
    for quantity in PER_SAMPLE:
        if not any(each.quantity == quantity for each in double.records):
            continue
        expected, got = values_of(double, quantity), values_of(single, quantity)
        for name, value in expected.items():
            if abs(value) < 1e38 and not math.isnan(got[name]):  # of what a record of floats has
                seen += 1
                absolute = tolerance if abs(value) < 1e3 and abs(value) > 1e-3 else 0.0
                bound = max(tolerance * abs(value), absolute)
                assert abs(got[name] - value) <= bound, (quantity, name, got[name], value)
    assert seen >= least


def squares(net: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = net(x).square().sum(1).mean()
    return result


EXPONENTS = [-26, -23, -20, -17, -14, -10, 10, 14, 21]


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_any_size_of_gradients(exponent: int) -> None:
    torch.manual_seed(0)
    model, x, scale = Everything(), torch.randint(0, 7, (6, 8)), 10.0**exponent
    (double,) = capture(copy.deepcopy(model).double(), x, squares, [scale])
    (single,) = capture(model, x, squares, [scale])
    assert not missing_of(single, "sample_grad_norm")
    compare(single, double)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_gradients_that_change_their_size(exponent: int) -> None:
    torch.manual_seed(0)
    model, x, scale = Everything(), torch.randint(0, 7, (6, 8)), 10.0**exponent
    whole, double = capture(copy.deepcopy(model).double(), x, squares, [1.0, scale])
    _, first, second, third = capture(model, x, squares, [1.0, scale, scale, 1.0])
    withheld = missing_of(first, "sample_grad_norm")
    assert bool(withheld) == (not -11 < exponent < 16)
    for reason in withheld.values():
        assert "for squares in float32" in reason
    assert not missing_of(second, "sample_grad_norm")
    compare(first, double, least=0)
    compare(second, double)
    compare(third, whole, least=0)


def test_a_part_of_the_samples() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(6, 1, 3, 4) * 1e-22, torch.randn(6, 1, 3, 5)
    chosen = torch.tensor([0, 3, 4])
    rows = torch.einsum("ngtp,ngtq->npq", left.double(), right.double())
    part = OuterJacobian(left, right, (4, 5)).select(chosen)
    needs = SampleNeeds(gram=True, columns=True)
    got = measure_samples(part, rows.sum(0).float(), needs, is_part=True, factor=2.0**70)
    rows_NP = rows[chosen].flatten(1) * 2.0**70
    torch.testing.assert_close(got.gram_NN.double(), rows_NP @ rows_NP.T)
    torch.testing.assert_close(got.sq_N.double(), rows_NP.square().sum(1))
    torch.testing.assert_close(got.grad_sq, (rows.sum(0) * 2.0**70).square().sum())
    torch.testing.assert_close(got.dot_N.double(), rows_NP @ rows.sum(0).flatten() * 2.0**70)


def test_an_operator_in_plain_pytorch() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    loss = model(x).square().sum(1).mean() * 1e-22
    with jacoscope.capture(loss, model, 4, "operator") as jacobians:
        loss.backward()
    rows = jacobians["weight"].dense().double() * 2.0**70
    got = jacobians["weight"].scaled(2.0**70)
    torch.testing.assert_close(got.row_sq_norms().double(), rows.flatten(1).square().sum(1))
    assert (jacobians["weight"].row_sq_norms() < 1e-40).all()


def test_first_layers_of_a_deep_network() -> None:
    torch.manual_seed(0)
    layers = [each for _ in range(24) for each in (nn.Linear(32, 32), nn.Sigmoid())]
    model, x = nn.Sequential(*layers, nn.Linear(32, 4)), torch.randn(16, 32)
    (double,) = capture(copy.deepcopy(model).double(), x.double(), squares, [1.0])
    (single,) = capture(model, x, squares, [1.0])
    assert not missing_of(single, "coherence")
    expected, got = values_of(double, "coherence"), values_of(single, "coherence")
    assert got["0.weight"] == pytest.approx(expected["0.weight"], rel=1e-3)


def test_a_gradient_of_zero_is_no_small_one() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)
    with torch.no_grad():
        model[0].bias.fill_(-100.0)  # type: ignore[union-attr, operator]
    (record,) = capture(model, x, squares, [1.0])
    assert not missing_of(record, "sample_grad_norm")
    assert values_of(record, "sample_grad_norm")["0.weight"] == 0


def test_a_sample_far_below_the_others_has_no_direction() -> None:
    model = nn.Linear(3, 2, bias=False)
    x = torch.ones(4, 3)
    sizes = torch.tensor([1.0, 1.0, 1.0, 1e-22])
    loss: Loss = lambda net, x: (net(x).sum(1) * sizes).mean()  # noqa: E731
    (record,) = capture(model, x, loss, [1.0])
    assert values_of(record, "sample_alignment")["weight"] == pytest.approx(1)

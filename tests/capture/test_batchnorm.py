"""BatchNorm in training mode couples the samples: rows are what flows through a sample's own rows.

The reference gives every sample its own copy of every parameter: each layer runs on each sample
apart, with that sample's copy, and the batch is put together again for the normalisation, which
has no parameters of its own there. The gradient of copy i is c_i.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

import jacoscope
from capture.agreement import errors, scale_of
from capture.case import normal, wave

ASKED = ("row_sq_norms", "column_sq_norms", "gram", "sum", "matvec", "rmatvec", "rows", "dense")


class Residual(nn.Module):
    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def dense_net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
    )


def two_norms() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(),
        nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2),
    )  # fmt: skip


def norm_first_and_last() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.BatchNorm1d(3))


def over_time() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4), nn.Tanh(), nn.Conv1d(4, 2, 1)
    )


def res_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(),
        Residual(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(),
                 nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.BatchNorm2d(3)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2),
    )  # fmt: skip


def volumes() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 3, 2), nn.BatchNorm3d(3), nn.Flatten(), nn.Linear(24, 2))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (dense_net, (5, 4)),
    "two norms": (two_norms, (4, 4)),
    "norm first and last": (norm_first_and_last, (4, 4)),
    "over time": (over_time, (3, 3, 6)),
    "over time, N equals channels": (over_time, (4, 3, 4)),
    "residual network": (res_net, (3, 2, 5, 5)),
    "volumes": (volumes, (3, 1, 3, 3, 3)),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    make, shape = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = make().double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model, normal(*shape)


def with_copies(
    module: nn.Module, x: Tensor, copies: dict[str, Tensor], prefix: str = ""
) -> Tensor:
    """The module's output where sample i uses copy i of every parameter."""
    if isinstance(module, nn.Sequential):
        for name, child in module.named_children():
            x = with_copies(child, x, copies, f"{prefix}{name}.")
        return x
    if isinstance(module, Residual):
        return x + with_copies(module.inner, x, copies, f"{prefix}inner.")
    if isinstance(module, _BatchNorm):
        y = functional.batch_norm(x, None, None, training=True, eps=module.eps)
        shape = (len(x), -1, *(1,) * (x.dim() - 2))
        return y * copies[prefix + "weight"].view(shape) + copies[prefix + "bias"].view(shape)
    own = [name for name, _ in module.named_parameters()]
    return torch.cat(
        [
            functional_call(module, {n: copies[prefix + n][i] for n in own}, (x[i : i + 1],))
            for i in range(len(x))
        ]
    )


def reference(name: str) -> dict[str, Tensor]:
    model, x = build(name)
    copies = {
        key: p.detach().expand(len(x), *p.shape).clone().requires_grad_()
        for key, p in model.named_parameters()
    }
    wave(with_copies(model, x, copies)).backward()
    return {key: copy.grad for key, copy in copies.items() if copy.grad is not None}


def captured(name: str, want: Any) -> tuple[nn.Module, Any]:
    model, x = build(name)
    loss = wave(model(x))
    with jacoscope.capture(loss, model, batch_size=len(x), want=want) as jacobians:
        loss.backward()
    return model, jacobians


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_reference_adds_up_to_the_gradient(name: str) -> None:
    model, x = build(name)
    wave(model(x)).backward()
    rows = reference(name)
    size = scale_of(rows)
    assert set(rows) == dict(model.named_parameters()).keys()
    for key, parameter in model.named_parameters():
        assert float((rows[key].sum(0) - parameter.grad).norm()) <= 1e-12 * size, key


def test_rows_are_what_flows_through_a_samples_own_rows(name: str) -> None:
    rows = reference(name)
    _, jacobians = captured(name, "operator")
    assert dict(jacobians.missing) == {}
    assert jacobians.coverage == 1
    size = scale_of(rows)
    wrong = {}
    for key, expected in rows.items():
        off = errors(jacobians[key], expected, ASKED, floor=1e-4 * size)
        # a bias below the norm: rows of full size whose sum is zero
        wrong.update({f"{key}: {what}": e for what, e in off.items() if not e <= 1e-10})
    assert wrong == {}


def test_rows_sum_to_the_gradient(name: str) -> None:
    model, jacobians = captured(name, ("sum", "row_sq_norms"))
    size = max(float(p.grad.norm()) for p in model.parameters())
    for key, parameter in model.named_parameters():
        off = (jacobians[key].sum() - parameter.grad).norm()
        assert float(off) <= 1e-12 * max(size, float(parameter.grad.norm())), key


def test_the_coupling_is_named(name: str) -> None:
    model, jacobians = captured(name, ("row_sq_norms",))
    norms = {key for key, module in model.named_modules() if isinstance(module, _BatchNorm)}
    assert isinstance(jacobians.coupled, tuple)
    assert set(jacobians.coupled) == norms


def test_layers_behind_the_last_norm_have_their_samples_own_gradients() -> None:
    _, jacobians = captured("dense", "operator")
    twin, x = build("dense")
    parts = [wave(y) / len(x) for y in twin(x)]
    for key in ("3.weight", "3.bias", "5.weight", "5.bias"):
        parameter = twin.get_parameter(key)
        own = [torch.autograd.grad(p, parameter, retain_graph=True)[0] for p in parts]
        given = jacobians[key].dense()
        torch.testing.assert_close(given, torch.stack(own), rtol=1e-10, atol=1e-14)
    before = [torch.autograd.grad(p, twin[0].weight, retain_graph=True)[0] for p in parts]
    assert float((jacobians["0.weight"].dense() - torch.stack(before)).norm()) > 1e-3


def test_running_statistics_are_left_alone(name: str) -> None:
    model, _ = captured(name, "operator")
    plain, x = build(name)
    wave(plain(x)).backward()
    for (key, given), (_, wanted) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(given, wanted), key
    for (key, given), (_, wanted) in zip(
        model.named_parameters(), plain.named_parameters(), strict=True
    ):
        assert torch.equal(given.grad, wanted.grad), key


@pytest.mark.parametrize("track", [False, True])
def test_norms_within_a_sample_couple_nothing(track: bool) -> None:
    """InstanceNorm runs BatchNorm's kernel in training mode, with samples among the channels."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=track),
        nn.GroupNorm(3, 3),
    ).double()
    loss = wave(model(normal(4, 2, 5, 5)))
    with jacoscope.capture(loss, model, batch_size=4) as jacobians:
        loss.backward()
    assert jacobians.coupled == ()
    assert jacobians.coverage == 1


def test_batch_norm_in_evaluation_couples_nothing() -> None:
    model = dense_net().double().eval()
    loss = wave(model(normal(5, 4)))
    with jacoscope.capture(loss, model, batch_size=5) as jacobians:
        loss.backward()
    assert jacobians.coupled == ()

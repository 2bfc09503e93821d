"""Capture against plain autograd, one sample at a time, on every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import jacoscope
from capture.agreement import errors, scale_of
from capture.architectures import BY_NAME, CASES
from capture.case import Case
from capture.reference import contributions, dense, gradients, named_parameters

STREAMED = ("row_sq_norms", "column_sq_norms", "gram", "sum")
OPERATOR = (*STREAMED, "matvec", "rmatvec", "rows", "dense")

# one of a kind: what runs other kernels or other casts in float32
IN_FLOAT32 = (
    "Linear 3D",
    "Conv2d stride, padding and dilation unlike in height and width",
    "Conv2d depthwise",
    "ConvTranspose2d",
    "LayerNorm with time, N equals T",
    "RMSNorm",
    "GroupNorm",
    "BatchNorm2d in evaluation",
    "Embedding with padding",
    "EmbeddingBag mean with offsets",
    "LSTM",
    "LSTM stacked and bidirectional",
    "LSTM packed, sorted inside",
    "LSTM, sequence first, N equals T",
    "GRU",
    "MultiheadAttention",
    "TransformerEncoder, sequence first, N equals T",
    "Transformer",
    "tied embedding and head",
    "weight_norm, parametrized",
    "LoRA as W + B @ A",
    "einsum btd,hde->bhte, heads",
    "class token, expand and cat, positions",
    "U-Net",
    "mixture of experts, one per token by index_add",
    "state space model by a loop",
    "masked tokens",
    "graphs of unequal sizes",
    "transformers GPT-2",
    "transformers Llama",
    "transformers T5",
    "transformers Mamba",
)


every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_covered_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=case.name,
            marks=[pytest.mark.xfail(reason=case.xfail, strict=True)] if case.xfail else [],
        )
        for case in CASES
    ],
)


def captured(case: Case, want: Any, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    model, batch = case.build(dtype), case.batch(dtype)
    loss = case.loss(model, batch)
    with jacoscope.capture(loss, model, batch_size=case.n, want=want, **case.options) as jacobians:
        loss.backward()
    return model, jacobians


def check(
    case: Case, jacobians: Any, asked: tuple[str, ...], tolerance: float, floor: float
) -> None:
    """Everything that is asked, of every parameter, agrees with the reference."""
    rows = contributions(case)
    assert dict(jacobians.missing) == {}
    assert set(jacobians) == set(rows)
    assert jacobians.coverage == 1
    size = scale_of(rows)
    wrong = {}
    for name, expected in rows.items():
        assert tuple(jacobians[name].shape) == (case.n, expected[0].numel())
        off = errors(jacobians[name], expected, asked, floor=floor * size)
        wrong.update({f"{name}: {what}": e for what, e in off.items() if not e <= tolerance})
    assert wrong == {}


@every_case
def test_the_reference_adds_up_to_the_gradient(case: Case) -> None:
    rows, whole = contributions(case), gradients(case)
    size = scale_of(rows)
    for name, row in rows.items():
        gradient = dense(whole[name])
        error = (row.sum(0) - gradient).norm() / max(float(gradient.norm()), 1e-4 * size)
        assert float(error) <= 1e-12, name


@every_covered_case
def test_the_operator_is_the_jacobian(case: Case) -> None:
    _, jacobians = captured(case, "operator")
    check(case, jacobians, OPERATOR, tolerance=1e-10, floor=1e-4)
    assert max(jacobians.closure.values()) <= 1e-10


@every_covered_case
def test_what_is_streamed_equals_the_operator(case: Case) -> None:
    _, jacobians = captured(case, STREAMED)
    check(case, jacobians, STREAMED, tolerance=1e-10, floor=1e-4)


@every_case
def test_the_training_is_left_as_it_is(case: Case) -> None:
    model, _ = captured(case, STREAMED)
    plain = gradients(case)
    for name, parameter in named_parameters(model).items():
        assert (parameter.grad is None) == (name not in plain)
        if parameter.grad is not None:
            assert torch.equal(dense(parameter.grad), dense(plain[name])), name
            assert not parameter._backward_hooks, name
            assert not parameter._post_accumulate_grad_hooks, name


@pytest.mark.parametrize("case", [case for case in CASES if case.xfail], ids=str)
def test_what_is_given_is_right_where_not_all_can_be_given(case: Case) -> None:
    rows = contributions(case)
    _, jacobians = captured(case, "operator")
    assert set(jacobians) | set(jacobians.missing) == set(rows)
    assert jacobians.missing
    assert jacobians.coverage < 1
    for name in jacobians:
        off = errors(jacobians[name], rows[name], OPERATOR, floor=1e-4 * scale_of(rows))
        assert max(off.values()) <= 1e-10, name


@pytest.mark.parametrize("case", [BY_NAME[name] for name in IN_FLOAT32], ids=str)
def test_single_precision(case: Case) -> None:
    _, jacobians = captured(case, "operator", torch.float32)
    check(case, jacobians, OPERATOR, tolerance=1e-4, floor=1e-2)


@pytest.mark.parametrize("name", ["Linear 3D", "tied embedding and head", "LSTM", "U-Net"])
def test_gradients_that_were_there_before_are_not_counted(name: str) -> None:
    """Accumulation: `.grad` holds an earlier backward; rows are of the captured one."""
    case = BY_NAME[name]
    model, batch = case.build(), case.batch()
    (3 * case.loss(model, batch)).backward()
    loss = case.loss(model, batch)
    with jacoscope.capture(loss, model, batch_size=case.n, want="operator") as jacobians:
        loss.backward()
    check(case, jacobians, OPERATOR, tolerance=1e-10, floor=1e-4)


def layers_with_parameters() -> set[str]:
    """Classes of torch.nn that own parameters when made from a few small numbers."""
    found = set()
    for name in nn.__dict__:
        kind = getattr(nn, name)
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)) or "Lazy" in name:
            continue
        for arguments in ((2,), (2, 2), (2, 2, 2), (4, 10, [5])):
            try:
                layer = kind(*arguments)
            except (TypeError, ValueError, AssertionError, RuntimeError, IndexError):
                continue
            if any(True for _ in layer.parameters()):
                found.add(name)
    return found


@pytest.mark.filterwarnings("ignore")
def test_every_layer_of_torch_nn_with_parameters_is_there() -> None:
    used = {type(module).__name__ for case in CASES for module in case.build().modules()}
    # SyncBatchNorm wants a GPU and other ranks; the rest are parts of layers that are there
    elsewhere = {"SyncBatchNorm", "RNNBase", "RNNCellBase", "Container"}
    assert layers_with_parameters() - used - elsewhere == set()
    assert len(CASES) >= 60

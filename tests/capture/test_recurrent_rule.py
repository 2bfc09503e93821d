"""The closed form of fused LSTM layers, which exist in float32, against plain autograd."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jacoscope
from capture.agreement import errors, scale_of
from capture.case import Batch, Case, Net, along, along_first, normal, param, wave
from capture.reference import contributions
from jacoscope.capturing import _backward
from jacoscope.capturing._layout import Irregular, Layout, LayoutError, Regular
from jacoscope.capturing.rules import RULES, Use
from jacoscope.capturing.rules import _recurrent as recurrent

OPERATOR = ("row_sq_norms", "column_sq_norms", "gram", "sum", "matvec", "rmatvec", "rows", "dense")


def of_output(model: nn.Module, batch: Batch) -> Tensor:
    return wave(model(*batch)[0])


def of_hidden(model: nn.Module, batch: Batch) -> Tensor:
    return wave(model(*batch)[1][0])


def of_cell(model: nn.Module, batch: Batch) -> Tensor:
    return wave(model(*batch)[1][1])


def of_all(model: nn.Module, batch: Batch) -> Tensor:
    output, (hidden, cell) = model(*batch)
    return wave(output) + 2 * wave(hidden) - 3 * wave(cell)


def lstm(
    name: str,
    loss: Callable[[nn.Module, Batch], Tensor] = of_output,
    n: int = 3,
    length: int = 5,
    **settings: Any,
) -> Case:
    batch_first = settings.get("batch_first", False)
    return Case(
        name,
        lambda: nn.LSTM(4, 3, **settings),
        lambda n: (normal(n, length, 4) if batch_first else normal(length, n, 4),),
        n=n,
        loss=loss,
        take=along_first if batch_first else along(1),
    )


def with_states(shape: Callable[[int], tuple[int, ...]], name: str, **settings: Any) -> Case:
    def run(m: Net, x: Tensor) -> Any:
        states = (each.expand(2, len(x), 3).contiguous() for each in (m.h, m.c))
        return m.lstm(x, tuple(states))

    return Case(
        name,
        lambda: Net(
            run,
            lstm=nn.LSTM(4, 3, batch_first=True, bidirectional=True),
            h=param(*shape(3)),
            c=param(*shape(3)),
        ),
        lambda n: (normal(n, 5, 4),),
        loss=of_all,
        **settings,
    )


def one_by_one(m: Net, x: Tensor) -> Tensor:
    return torch.cat([m.lstm(each)[0] for each in x.split(1)])


def group_of_rows(m: Net, x: Tensor) -> Tensor:
    return m.lstm(x.flatten(0, 1))[0].unflatten(0, x.shape[:2])


CASES = (
    lstm("sequence first"),
    lstm("sequence first, N equals T", n=5),
    lstm("batch first", batch_first=True),
    lstm("batch first, N equals T and width", batch_first=True, n=4, length=4),
    lstm("one time step", length=1),
    lstm("without bias", bias=False),
    lstm("last hidden state alone", of_hidden),
    lstm("last hidden state alone, N equals T", of_hidden, n=5),
    lstm("last cell state alone", of_cell, batch_first=True),
    lstm("all outputs", of_all, batch_first=True),
    lstm("bidirectional", bidirectional=True),
    lstm("bidirectional, last hidden state alone", of_hidden, bidirectional=True),
    lstm("bidirectional, N equals T, all outputs", of_all, n=5, bidirectional=True),
    lstm("stacked", num_layers=3),
    lstm("stacked and bidirectional without bias, all outputs", of_all,
         num_layers=2, bidirectional=True, batch_first=True, bias=False),
    with_states(lambda width: (2, 1, width), "initial states as parameters", n=4),
    Case("used twice", lambda: Net(lambda m, x: m.lstm(m.lstm(x)[0]), lstm=nn.LSTM(4, 4)),
         lambda n: (normal(5, n, 4),), n=3, loss=of_output, take=along(1)),
    Case("sample by sample", lambda: Net(one_by_one, lstm=nn.LSTM(4, 3, batch_first=True)),
         lambda n: (normal(n, 5, 4),), n=3),
    Case("several rows per sample",
         lambda: Net(group_of_rows, lstm=nn.LSTM(4, 3, batch_first=True)),
         lambda n: (normal(n, 2, 5, 4),), n=3),
)  # fmt: skip

every_case = pytest.mark.parametrize("case", CASES, ids=str)
where_fused = pytest.mark.skipif(
    "Mkldnn" not in nn.LSTM(1, 1)(torch.zeros(1, 1, 1))[0].grad_fn.name(),
    reason="this build of torch has no fused LSTM layer",
)


@pytest.fixture
def no_generic_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """No recurrent layer may go by the generic rule."""
    generic = _backward.generic_rule

    def guarded(use: Use, **settings: Any) -> Any:
        assert "Rnn" not in use.node.name()
        return generic(use, **settings)

    monkeypatch.setattr(_backward, "generic_rule", guarded)


def captured(case: Case, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    model, batch = case.build(dtype), case.batch(dtype)
    loss = case.loss(model, batch)
    options = {"batch_size": case.n} | options
    with jacoscope.capture(loss, model, want="operator", **options) as jacobians:
        loss.backward()
    assert dict(jacobians.missing) == {}
    return jacobians


def check(jacobians: Any, rows: dict[str, Tensor], tolerance: float) -> None:
    assert set(jacobians) == set(rows)
    floor = 1e-2 * scale_of(rows)
    for name, expected in rows.items():
        off = errors(jacobians[name], expected, OPERATOR, floor=floor)
        assert max(off.values()) <= tolerance, (name, off)


@where_fused
@pytest.mark.usefixtures("no_generic_rule")
@every_case
def test_it_is_the_jacobian(case: Case) -> None:
    jacobians = captured(case)
    check(jacobians, contributions(case), 1e-4)
    for name, rule in jacobians.rules.items():
        if "weight" in name or "bias" in name:
            kind = {"weight_ih": "input weight", "weight_hh": "hidden weight"}
            wanted = kind.get(name.rpartition(".")[2][:9], "bias")
            assert rule == f"MkldnnRnnLayer: lstm {wanted}"


@where_fused
@pytest.mark.parametrize("name", ["batch first", "bidirectional", "stacked"])
def test_the_generic_rule_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in CASES if case.name == name)
    closed = captured(case)
    for slot in range(1, 5):
        monkeypatch.delitem(RULES, ("MkldnnRnnLayer", slot))
    generic = captured(case)
    assert set(generic.rules.values()) == {"MkldnnRnnLayer: generic"}
    check(closed, {name: generic[name].dense().double() for name in generic}, 1e-4)


@pytest.mark.usefixtures("no_generic_rule")
def test_rows_that_were_given_to_samples() -> None:
    case = lstm("rows of samples", of_output, n=5, batch_first=True)
    samples = torch.tensor([2, 0, 0, 1, 2])
    jacobians = captured(case, batch_size=None, samples=samples)
    rows = {
        name: each.new_zeros(3, *each.shape[1:]).index_add(0, samples, each)
        for name, each in contributions(case).items()
    }
    check(jacobians, rows, 1e-4)


@where_fused
def test_a_state_of_each_sample_leaves_the_weights_to_the_closed_form() -> None:
    """States that were not expanded: their own rows go by the generic rule."""
    case = with_states(lambda width: (2, 4, width), "a state each", n=4)
    jacobians = captured(case)
    model, batch = case.build(), case.batch()
    parts = wave_of_each(model, batch[0])
    parameters = dict(model.named_parameters())
    grads = [
        torch.autograd.grad(part, list(parameters.values()), retain_graph=True) for part in parts
    ]
    rows = {
        name: torch.stack(each)
        for name, each in zip(parameters, zip(*grads, strict=True), strict=True)
    }
    check(jacobians, rows, 1e-4)
    assert jacobians.rules["lstm.weight_ih_l0"] == "MkldnnRnnLayer: lstm input weight"


def wave_of_each(model: nn.Module, x: Tensor) -> list[Tensor]:
    """What each sample adds to the loss, of a forward of all of them."""
    output, (hidden, cell) = model(x)
    parts = []
    for i in range(len(x)):
        part = wave(output[i]) + 2 * wave(hidden[:, i]) - 3 * wave(cell[:, i])
        parts.append(part / len(x))
    return parts


@pytest.mark.parametrize("name", ["batch first", "bidirectional", "last hidden state alone"])
def test_half_precision(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    rows = contributions(case)
    for parameter, jacobian in captured(case, torch.bfloat16).items():
        off = errors(jacobian, rows[parameter], ("dense",), floor=1e-2 * scale_of(rows))
        assert off["dense"] <= 0.05, parameter


OTHERS = {
    "LSTM with projections": (lambda: nn.LSTM(4, 5, proj_size=3), torch.float32),
    "LSTM": (lambda: nn.LSTM(4, 3, num_layers=2, bidirectional=True), torch.float64),
    "GRU": (lambda: nn.GRU(4, 3, num_layers=2, bidirectional=True), torch.float32),
    "GRU in float64": (lambda: nn.GRU(4, 3, bias=False), torch.float64),
    "RNN": (lambda: nn.RNN(4, 3, num_layers=2, bidirectional=True), torch.float32),
    "RNN in float64": (lambda: nn.RNN(4, 3, nonlinearity="relu"), torch.float64),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_other_layers_are_made_of_parts_that_have_closed_forms(name: str) -> None:
    layer, dtype = OTHERS[name]
    case = Case(
        name, layer, lambda n: (normal(5, n, 4),), n=3, loss=of_output, take=along(1)
    )  # fmt: skip
    jacobians = captured(case, dtype)
    check(jacobians, contributions(case), 1e-4)
    assert not any("generic" in rule for rule in jacobians.rules.values())


SHAPES = {"T": 6, "N": 3, "D": 4, "H": 5}


def drawn(shape: str, generator: torch.Generator) -> Tensor:
    sizes = [{**SHAPES, "Z": 4 * SHAPES["H"]}[dim] for dim in shape]
    return torch.randn(sizes, generator=generator, dtype=torch.float64)


def written_out(parts: dict[str, Tensor], *, backwards: bool) -> tuple[Any, ...]:
    """A layer by hand: gates before their nonlinearities, output, last states."""
    hidden, cell = parts["hx"], parts["cx"]
    steps = range(SHAPES["T"])
    gates, outputs = {}, {}
    for t in reversed(steps) if backwards else steps:
        gates[t] = parts["x"][t] @ parts["w_ih"].T + hidden @ parts["w_hh"].T + parts["b"]
        i, f, g, o = gates[t].split(SHAPES["H"], dim=1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        outputs[t] = hidden
    return [gates[t] for t in steps], torch.stack([outputs[t] for t in steps]), hidden, cell


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    "present", [each for each in itertools.product([True, False], repeat=3) if any(each)]
)
def test_gradients_of_gates_in_double_precision(
    present: tuple[bool, bool, bool], backwards: bool
) -> None:
    generator = torch.Generator().manual_seed(7)
    shapes = {"x": "TND", "hx": "NH", "cx": "NH", "w_ih": "ZD", "w_hh": "ZH", "b": "Z"}
    parts = {name: drawn(shape, generator) for name, shape in shapes.items()}
    parts["x"].requires_grad_()
    gates, *outputs = written_out(parts, backwards=backwards)
    deltas = [
        drawn(shape, generator) if given else None
        for shape, given in zip(("TNH", "NH", "NH"), present, strict=True)
    ]
    total = sum(
        (output * delta).sum()
        for output, delta in zip(outputs, deltas, strict=True)
        if delta is not None
    )
    wanted = torch.stack(torch.autograd.grad(total, gates))
    layer = recurrent.LSTMLayer(
        parts["x"].detach(),
        outputs[0].detach(),
        parts["hx"],
        parts["cx"],
        parts["w_ih"],
        parts["w_hh"],
        parts["b"],
        is_reversed=backwards,
    )
    torch.testing.assert_close(layer.gate_gradients(*deltas), wanted, rtol=1e-10, atol=1e-10)


def fused_use(*layouts: Layout | None) -> Use:
    """A use of a layer over 4 steps and 4 rows, with these layouts of its outputs."""
    layer = nn.LSTM(4, 3)
    output, _ = layer(torch.randn(4, 4, 4))
    shapes = ((4, 4, 3), (4, 3), (4, 3))
    return Use(
        node=output.grad_fn,
        slot=1,
        shape=(12, 4),
        grads=tuple(
            None if layout is None else torch.randn(shape)
            for layout, shape in zip(layouts, shapes, strict=True)
        ),
        output_shapes=shapes,
        layouts=layouts,
        input_shapes=(None, (12, 4), (12, 3), (12,), (12,), None, None),
        samples=4,
    )


@where_fused
@pytest.mark.parametrize(
    "layouts",
    [
        (Regular(0, 1, 4), None, None),
        (Irregular(torch.arange(16).reshape(4, 4, 1) % 3), None, None),
        (None, Regular(1, 1, 3), None),
        (Regular(1, 1, 4), Regular(0, 2, 2), None),
        (Regular(1, 1, 4), None, Irregular(torch.tensor([[1], [0], [2], [3]]))),
    ],
    ids=["over time", "element by element", "over units", "unlike", "in another order"],
)
def test_samples_that_are_not_rows_of_the_batch_are_declined(
    layouts: tuple[Layout | None, ...],
) -> None:
    with pytest.raises(LayoutError):
        recurrent.lstm_input_weight_rule(fused_use(*layouts))


@where_fused
def test_the_walk_back_is_done_once_for_all_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    gradients = recurrent.LSTMLayer.gate_gradients

    def counted(self: Any, *grads: Any) -> Tensor:
        calls.append(1)
        return gradients(self, *grads)

    case = lstm("calls", batch_first=True)
    model, batch = case.build(torch.float32), case.batch(torch.float32)
    for _ in range(2):  # the first capture also checks itself
        calls.clear()
        loss = case.loss(model, batch)
        with monkeypatch.context() as patch:
            patch.setattr(recurrent.LSTMLayer, "gate_gradients", counted)
            with jacoscope.capture(loss, model, batch_size=case.n):
                loss.backward()
    assert len(calls) == 1

"""Every quantity against its plain definition, written out in numpy, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from jacoscope import Monitor
from jacoscope.capturing import ParameterTensors
from jacoscope.quantities import (
    HISTOGRAM_EDGES,
    QUANTITIES,
    STATISTICS,
    Meter,
    _blocks,
    is_per_sample,
    is_probed,
)
from jacoscope.record import StepRecord
from jacoscope.sinks import MemorySink

Array = Any

# The plain definitions: g, θ and Δθ as flat float64 arrays.
DEFINITIONS: dict[str, Callable[[Array, Array, Array], float]] = {
    "grad_norm": lambda g, w, u: np.linalg.norm(g),
    "grad_rms": lambda g, w, u: np.sqrt(np.mean(np.square(g))),
    "grad_max": lambda g, w, u: np.max(np.abs(g)),
    "grad_mean": lambda g, w, u: np.mean(g),
    "grad_zero_fraction": lambda g, w, u: np.mean(g == 0),
    "grad_nonfinite": lambda g, w, u: np.sum(~np.isfinite(g)),
    "weight_norm": lambda g, w, u: np.linalg.norm(w),
    "update_norm": lambda g, w, u: np.linalg.norm(u),
    "update_ratio": lambda g, w, u: np.linalg.norm(u) / np.linalg.norm(w),
    "update_cosine": lambda g, w, u: np.dot(u, -g) / np.linalg.norm(u) / np.linalg.norm(g),
    "saliency": lambda g, w, u: np.sum(np.abs(w * g)),
    "taylor_importance": lambda g, w, u: np.sum(np.square(w * g)),
}

OF_PARAMETERS = [n for n in QUANTITIES if not (is_per_sample(n) or is_probed(n))]
EVERYTHING = {"quantities": OF_PARAMETERS, "on_error": "raise"}


class Observed:
    """What an independent observer notes of one optimiser step."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.g = self._copy(lambda p: p.grad)
        self.w = self._copy(lambda p: p)
        self.u: dict[str, Array] = {}

    def after(self) -> None:
        moved = self._copy(lambda p: p)
        self.u = {name: moved[name] - self.w[name] for name in moved}

    def _copy(self, of: Callable[[Tensor], Tensor | None]) -> dict[str, Array]:
        copies = {}
        for name, parameter in self._model.named_parameters():
            value = of(parameter)
            if value is not None:
                copies[name] = value.detach().to_dense().double().numpy().ravel().copy()
        return copies


def observe(
    model: nn.Module,
    loss: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer,
    clip: float | None = None,
) -> tuple[StepRecord, Observed]:
    sink = MemorySink()
    with Monitor(model, EVERYTHING, sinks=[sink]) as monitor:
        assert monitor.begin_step(0)
        optimizer.zero_grad()
        loss().backward()
        monitor.before_optimizer_step(optimizer)
        observed = Observed(model)
        if clip is not None:
            nn.utils.clip_grad_value_(model.parameters(), clip)
        optimizer.step()
        observed.after()
        monitor.end_step()
    return sink.records[0], observed


def compare(record: StepRecord, observed: Observed, rtol: float = 1e-12) -> None:
    seen = set()
    for item in record.records:
        if item.quantity == "grad_histogram":
            continue
        seen.add(item.quantity)
        for name, value in zip(item.axis.names, item.values, strict=True):
            g, w, u = observed.g[name], observed.w[name], observed.u[name]
            with np.errstate(all="ignore"):
                expected = DEFINITIONS[item.quantity](g, w, u)
            if not np.isfinite(expected):
                assert np.array_equal(value, expected, equal_nan=True), (item.quantity, name)
                continue
            scale = np.mean(np.abs(g)) if item.quantity == "grad_mean" else abs(expected)
            if item.quantity == "update_cosine":
                scale = 1.0
            assert np.allclose(value, expected, rtol=0, atol=rtol * scale), (
                item.quantity,
                name,
                value,
                expected,
            )
    assert seen == set(DEFINITIONS)


class Odd(nn.Module):
    """Parameters of every awkward shape."""

    def __init__(self) -> None:
        super().__init__()
        self.scalar = nn.Parameter(torch.tensor(0.7))
        self.one = nn.Parameter(torch.randn(1))
        self.convolution = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
        self.transposed = nn.Parameter(torch.randn(7, 5).t())
        self.embedding = nn.Embedding(11, 4)
        self.wide = nn.Parameter(torch.randn(1025))
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        images = self.norm(self.convolution(x))
        rows = self.embedding(torch.tensor([0, 3, 3]))
        parts = (images, self.transposed, rows, self.wide, self.one, self.scalar)
        return torch.stack([(part**2).mean() for part in parts]).prod() ** 0.5


MODELS: dict[str, Callable[[], tuple[nn.Module, Callable[[nn.Module], Tensor]]]] = {
    "mlp": lambda: (
        nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3)),
        lambda model: (
            model(torch.randn(16, 6, dtype=next(model.parameters()).dtype)).square().sum()
        ),
    ),
    "odd": lambda: (
        Odd(),
        lambda model: model(torch.randn(4, 3, 6, 6, dtype=next(model.parameters()).dtype)),
    ),
    "lstm": lambda: (
        nn.LSTM(5, 9, num_layers=2, bidirectional=True),
        lambda model: model(torch.randn(7, 3, 5, dtype=next(model.parameters()).dtype))[0].sum(),
    ),
    "attention": lambda: (
        nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0),
        lambda model: (
            model(torch.randn(7, 3, 16, dtype=next(model.parameters()).dtype)).pow(3).sum()
        ),
    ),
}

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop-foreach": lambda p: torch.optim.RMSprop(p, lr=0.01, foreach=True),
}


@pytest.mark.parametrize("chunk_rows", [None, 2], ids=["all at once", "in chunks"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_every_quantity_equals_its_definition(
    model: str,
    dtype: torch.dtype,
    optimizer: str,
    chunk_rows: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Small models are copied to where they are measured, others twice."""
    if chunk_rows is not None:
        monkeypatch.setattr(_blocks, "rows_per_chunk", lambda device: chunk_rows)
    torch.manual_seed(1)
    module, loss = MODELS[model]()
    module.to(dtype)
    step = OPTIMIZERS[optimizer](module.parameters())
    # Sums are taken in double whatever the gradient's own precision is.
    compare(*observe(module, lambda: loss(module), step), rtol=1e-12)


def test_optimizers_that_are_about_to_step_at_once_do_not_share_room() -> None:
    torch.manual_seed(1)
    module, loss = MODELS["mlp"]()
    module.double()
    first, second = module[0], module[2]  # type: ignore[index]
    optimizers = [torch.optim.AdamW(part.parameters(), lr=0.1) for part in (first, second)]
    sink = MemorySink()
    with Monitor(module, EVERYTHING, sinks=[sink]) as monitor:
        for step in range(2):
            assert monitor.begin_step(step)
            module.zero_grad()
            loss(module).backward()
            for optimizer in optimizers:
                monitor.before_optimizer_step(optimizer)
            observed = Observed(module)
            for optimizer in reversed(optimizers):
                optimizer.step()
            observed.after()
            monitor.end_step()
            compare(sink.records[step], observed)


def test_a_scaled_gradient_is_the_same_when_it_is_measured_again() -> None:
    """As where a quantity fails, and the others are measured one by one."""
    meter = Meter()
    gradient, weight = torch.randn(5, 3), torch.randn(5, 3)
    gradients, weights = meter.hold("gradient", [gradient * 4]), meter.hold("weight", [weight])
    assert gradients is not None
    assert weights is not None
    tensors = ParameterTensors(
        ("x",), torch.device("cpu"), gradients, weights, [weight + 1], torch.tensor(4.0)
    )
    for _ in range(2):
        found = meter.measure(tensors, list(STATISTICS.values())).values_L
        assert float(found["grad_sq"]) == pytest.approx(float(gradient.double().square().sum()))
        assert float(found["update_sq"]) == pytest.approx(15)


def test_room_is_lent_to_one_at_a_time_and_fits_small_models_alone() -> None:
    meter = Meter(chunk_rows=2)
    # A shard may be empty on this process.
    values = [torch.randn(4, 5), torch.empty(0, 3), torch.tensor(2.0)]
    held = meter.hold("weight", values)
    assert held is not None
    assert [view.tolist() for view in held] == [value.double().tolist() for value in values]
    tensors = ParameterTensors(("a", "b", "c"), torch.device("cpu"), None, held)
    squares = meter.measure(tensors, [STATISTICS["weight_sq"]]).values_L["weight_sq"]
    assert squares.tolist() == pytest.approx([float(v.double().square().sum()) for v in values])
    del tensors
    assert meter.hold("weight", values) is None
    assert meter.hold("gradient", values) is not None
    del held
    assert meter.hold("weight", [value.flatten() for value in values]) is not None
    assert meter.hold("weight", [torch.randn(2 * 512 + 1)]) is None


def test_gradients_are_those_before_clipping() -> None:
    torch.manual_seed(1)
    module, loss = MODELS["mlp"]()
    module.double()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    record, observed = observe(module, lambda: loss(module), optimizer, clip=1e-3)
    compare(record, observed)
    cosine = next(item for item in record.records if item.quantity == "update_cosine")
    assert (cosine.values < 0.999).any(), "clipping by value must turn the step"


def test_plain_gradient_descent_goes_downhill() -> None:
    torch.manual_seed(1)
    module, loss = MODELS["mlp"]()
    record, _ = observe(module, lambda: loss(module), torch.optim.SGD(module.parameters(), lr=1.0))
    cosine = next(item for item in record.records if item.quantity == "update_cosine")
    # In single precision the update is rounded to the weights' last place.
    assert np.allclose(cosine.values, 1.0, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_gradients_are_counted_and_shown(bad: float) -> None:
    torch.manual_seed(1)
    module, loss = MODELS["mlp"]()
    module.double()
    parameter = next(module.parameters())
    parameter.register_hook(
        lambda grad: grad.index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(bad).double())
    )
    record, observed = observe(
        module, lambda: loss(module), torch.optim.SGD(module.parameters(), lr=0.1)
    )
    values = {item.quantity: item.values for item in record.records}
    assert values["grad_nonfinite"].tolist() == [1, 0, 0, 0]
    for name in ("grad_norm", "grad_max", "grad_rms"):
        expected = DEFINITIONS[name](observed.g["0.weight"], 0, 0)
        assert np.array_equal(values[name][0], expected, equal_nan=True), name
        assert np.isfinite(values[name][1:]).all()
    assert values["grad_histogram"][0].sum() == parameter.numel() - 1


def test_sparse_gradients_count_as_their_dense_form() -> None:
    torch.manual_seed(1)
    module = nn.Embedding(20, 3, sparse=True).double()
    loss = lambda: module(torch.tensor([1, 4, 4])).pow(2).sum()  # noqa: E731
    compare(*observe(module, loss, torch.optim.SGD(module.parameters(), lr=0.1)))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=6),
    chunk_rows=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_the_cut_into_blocks_does_not_matter(sizes: list[int], chunk_rows: int, seed: int) -> None:
    """Whatever the chunk, parameters straddle it or not, the statistics are the same."""
    generator = torch.Generator().manual_seed(seed)
    g, w, m = ([torch.randn(n, generator=generator) for n in sizes] for _ in range(3))
    names = tuple(str(index) for index in range(len(sizes)))
    tensors = ParameterTensors(names, torch.device("cpu"), g, w, m)
    meter, small = Meter(), Meter(chunk_rows=chunk_rows)
    whole = meter.measure(tensors, list(STATISTICS.values()), histogram=True)
    cut = small.measure(tensors, list(STATISTICS.values()), histogram=True)
    for name, values_L in whole.values_L.items():
        torch.testing.assert_close(cut.values_L[name], values_L, rtol=1e-12, atol=1e-12)
    assert whole.histogram_LN is not None
    assert cut.histogram_LN is not None
    assert torch.equal(cut.histogram_LN, whole.histogram_LN)
    assert whole.histogram_LN.sum(1).tolist() == sizes


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=60))
def test_histogram_counts_each_number_in_its_bin(numbers: list[float]) -> None:
    values = np.array(numbers, dtype=np.float32)
    tensors = ParameterTensors(("x",), torch.device("cpu"), [torch.from_numpy(values)])
    counted = Meter().measure(tensors, [], histogram=True).histogram_LN
    assert counted is not None
    finite = values[np.isfinite(values)].astype(np.float64)
    # Bins are closed towards zero, so mirror the negative side.
    positive = np.histogram(finite[finite > 0], HISTOGRAM_EDGES)[0]
    negative = np.histogram(-finite[finite < 0], HISTOGRAM_EDGES)[0][::-1]
    expected = positive + negative
    expected[len(expected) // 2] += int((finite == 0).sum())
    assert counted[0].tolist() == expected.tolist()


@pytest.mark.parametrize("scale", [2.0, -0.5])
def test_scaling_the_loss_scales_as_documented(scale: float) -> None:
    def run(factor: float) -> dict[str, Array]:
        torch.manual_seed(1)
        module, loss = MODELS["mlp"]()
        module.double()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
        record, _ = observe(module, lambda: factor * loss(module), optimizer)
        return {item.quantity: item.values for item in record.records}

    one, scaled = run(1.0), run(scale)
    factors = {
        "×|s|": abs(scale),
        "×s": scale,
        "×s²": scale**2,
        "unchanged": 1.0,
        "unchanged (s ≠ 0)": 1.0,
    }
    checked = 0
    for name in OF_PARAMETERS:
        quantity = QUANTITIES[name]
        if quantity.scaling in factors:
            np.testing.assert_allclose(
                scaled[name], factors[quantity.scaling] * one[name], rtol=1e-12
            )
            checked += 1
    assert checked >= 8


class CountKernels(TorchDispatchMode):
    """Counts operators as PyTorch dispatches them; a fused one counts once."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not any(part in str(func) for part in ("view", "slice", "detach", "alias", "unbind")):
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_launches_do_not_grow_with_parameters() -> None:
    def launches(parameters: int) -> int:
        g = [torch.randn(20) for _ in range(parameters)]
        names = tuple(map(str, range(parameters)))
        tensors = ParameterTensors(names, torch.device("cpu"), g, g, g)
        meter = Meter()
        with CountKernels() as counter:
            meter.measure(tensors, list(STATISTICS.values()), histogram=True)
        return counter.count

    assert launches(100) == launches(2) < 80


def test_quantities_are_those_of_the_schema() -> None:
    from typing import get_args

    from jacoscope.config import QuantityName

    assert set(QUANTITIES) == set(get_args(QuantityName))
    assert set(DEFINITIONS) | {"grad_histogram"} == set(OF_PARAMETERS)

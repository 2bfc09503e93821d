"""What a capture's comparison with the gradient looks at, and what it leaves out."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import jacoscope
from jacoscope.jacobian import ConvolutionJacobian
from jacoscope.jacobian._convolution_rows import ConvolutionRows

SAMPLES = 6


@pytest.fixture
def model() -> nn.Module:
    """A convolution whose bias a normalisation takes out again."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.Flatten(), nn.Linear(8 * 14 * 14, 4)
    )


def captured(model: nn.Module) -> jacoscope.Jacobians:
    loss = functional.cross_entropy(
        model(torch.randn(SAMPLES, 3, 16, 16)), torch.arange(SAMPLES) % 4
    )
    with jacoscope.capture(loss, model, SAMPLES) as jacobians:
        loss.backward()
    return jacobians


def test_rows_that_come_out_wrong_are_withheld(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though all that they are made of is right."""
    captured(model)
    made = ConvolutionRows.of

    def wrong(self: ConvolutionRows, patched: Tensor, paired: Tensor) -> Tensor:
        rows = made(self, patched, paired)
        rows[0] *= 1.1
        return rows

    monkeypatch.setattr(ConvolutionRows, "of", wrong)
    jacobians = captured(model)
    assert "add up to something else" in jacobians.missing["0.weight"]
    assert set(jacobians.missing) == {"0.weight"}


def test_what_rounding_explains_is_asked_where_it_matters(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reading is left out for the weight; the bias has a gradient of rounding errors alone."""
    asked: list[str] = []
    magnitude = ConvolutionJacobian._magnitude

    def noted(self: ConvolutionJacobian) -> Tensor:
        asked.append("weight")
        return magnitude(self)

    norm = torch.linalg.vector_norm

    def counted(values: Tensor, *args: object, **options: object) -> Tensor:
        if values.shape == (SAMPLES, 8, 14, 14):
            asked.append("bias")
        return norm(values, *args, **options)  # type: ignore[call-overload, no-any-return]

    captured(model)
    monkeypatch.setattr(ConvolutionJacobian, "_magnitude", noted)
    monkeypatch.setattr(torch.linalg, "vector_norm", counted)
    jacobians = captured(model)
    assert not jacobians.missing
    assert asked == ["bias"]
    assert jacobians.closure["0.bias"] < 1e-4


def test_a_bias_that_is_not_taken_out_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 4))
    captured(model)
    shapes: list[tuple[int, ...]] = []
    norm = torch.linalg.vector_norm

    def counted(values: Tensor, *args: object, **options: object) -> Tensor:
        shapes.append(tuple(values.shape))
        return norm(values, *args, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch.linalg, "vector_norm", counted)
    assert not captured(model).missing
    assert (SAMPLES, 8, 14, 14) not in shapes

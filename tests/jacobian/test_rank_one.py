"""One outer product for each sample, against the rows themselves."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jacoscope.jacobian import Factor, RankOneJacobian

Agree = Callable[..., None]


@settings(max_examples=25, deadline=None)
@given(
    samples=st.integers(1, 7),
    p=st.integers(1, 9),
    q=st.integers(1, 9),
    shared=st.sampled_from(["neither", "left", "right"]),
    single=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_rows(
    agree: Agree, samples: int, p: int, q: int, shared: str, single: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float32 if single else torch.float64
    left, right = (torch.randn(samples, size, generator=generator, dtype=dtype) for size in (p, q))

    def make(budget: int) -> RankOneJacobian:
        sides = (
            Factor(left, is_shared=shared == "left"),
            Factor(right, is_shared=shared == "right"),
        )
        return RankOneJacobian(*sides, (p, q), memory_budget=budget)

    agree(make, left.double()[:, :, None] * right.double()[:, None])


@pytest.mark.parametrize("shape", [(2, 3, 5), (6, 5), (30,), (2, 15)])
def test_a_parameter_of_another_shape(shape: tuple[int, ...]) -> None:
    left, right = torch.randn(4, 6).double(), torch.randn(4, 5).double()
    jacobian = RankOneJacobian(Factor(left), Factor(right), shape)
    rows = (left[:, :, None] * right[:, None]).view(4, *shape)
    torch.testing.assert_close(jacobian.dense(), rows)
    torch.testing.assert_close(jacobian.column_sq_norms(), rows.square().sum(0))
    direction = torch.randn(shape[0]).double(), torch.randn(30 // shape[0]).double()
    along = torch.outer(*direction).view(shape)
    expected = (rows * along).flatten(1).sum(1)
    torch.testing.assert_close(jacobian.probe(*direction), expected)


def test_norms_from_the_gram_matrix_are_the_norms() -> None:
    left, right = torch.randn(4, 6), torch.randn(4, 5)
    both = RankOneJacobian(Factor(left), Factor(right), (6, 5))
    both.gram()
    alone = RankOneJacobian(Factor(left), Factor(right), (6, 5))
    torch.testing.assert_close(both.row_sq_norms(), alone.row_sq_norms())
    torch.testing.assert_close(both.magnitude(), alone.magnitude())


@pytest.mark.parametrize("budget", [2**28, 4096])
@pytest.mark.parametrize("sizes", [(70, 130, 90), (70, 130, 3), (300, 64, 64)])
def test_wide_layers_in_single_precision(sizes: tuple[int, int, int], budget: int) -> None:
    """Where products are left to oneDNN."""
    samples, p, q = sizes
    left, right = torch.randn(samples, p), torch.randn(samples, q)
    jacobian = RankOneJacobian(Factor(left), Factor(right), (p, q), memory_budget=budget)
    left, right = left.double(), right.double()
    columns = left.square().T @ right.square()
    gram = (left @ left.T) * (right @ right.T)
    torch.testing.assert_close(jacobian.column_sq_norms().double(), columns, rtol=1e-4, atol=1e-3)
    found = jacobian.gram()
    torch.testing.assert_close(found.double(), gram, rtol=1e-4, atol=1e-3 * float(gram.max()))
    torch.testing.assert_close(found, found.T)

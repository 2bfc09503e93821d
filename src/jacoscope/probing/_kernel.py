"""The neural tangent kernel and what its spectrum says.

Shape suffixes: N samples, K outputs or random cotangents per sample, R = N·K rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from jacoscope.errors import nearest

__all__ = ["NeuralTangentKernel", "drift", "label_alignment", "spectrum"]

_SKETCHED = "it needs a row per output, and the outputs were too many to enumerate"


@dataclass(frozen=True, eq=False)
class NeuralTangentKernel:
    """Θ = J Jᵀ of a model's outputs on N samples, by parameter and as a whole.

    J is the Jacobian ∂f/∂θ, N·C × P; Θ adds over parameters. Jacot et al., Neural tangent kernel,
    arXiv:1806.07572. Matrices are in double precision, on the CPU.

    Args:
        samples: N.
        outputs: C, the number of outputs per sample.
        grams: By parameter, J Jᵀ of its columns of J, shape (R, R), sample after sample. Rows are
            those of J if it is exact, R = N·C, else v_k·J for random v_k.
        is_exact: Whether there is a row for each output.
        precision: Relative precision of the rows.
        missing: By parameter, why there is nothing.
        method: ``vmap``, or ``loop`` for a model that vmap refuses.
        fallback: Why it is a loop, if it is.
        first_names: By each name of each of the model's parameters, the first name, under which a
            tied one stands.
    """

    samples: int
    outputs: int
    grams: Mapping[str, Tensor]
    is_exact: bool
    precision: float = 2.0**-52
    missing: Mapping[str, str] = field(default_factory=dict)
    method: str = "vmap"
    fallback: str | None = None
    first_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that have a kernel."""
        return tuple(self.grams)

    def gram(self, parameters: str | Iterable[str] | None = None) -> Tensor:
        """Θ of some of the parameters together, shape (R, R).

        Args:
            parameters: Names of parameters; by default all.

        Raises:
            KeyError: If one has no kernel.
        """
        chosen = self._chosen(parameters)
        return torch.stack([self.grams[name] for name in chosen]).sum(0)

    def kernel(self, parameters: str | Iterable[str] | None = None) -> Tensor:
        """Θ with its dimensions apart, shape (N, C, N, C).

        Args:
            parameters: Names of parameters; by default all.

        Raises:
            ValueError: If outputs were sketched.
        """
        self._need_exact()
        shape = self.samples, self.outputs
        return self.gram(parameters).reshape(*shape, *shape)

    def sample_kernel(self, parameters: str | Iterable[str] | None = None) -> Tensor:
        """Σ_c Θ[(i, c), (j, c)], shape (N, N); unbiased where outputs were sketched.

        Args:
            parameters: Names of parameters; by default all.
        """
        return _over_outputs(self.gram(parameters), self.samples, self.is_exact)

    def eigenvalues(self, parameters: str | Iterable[str] | None = None) -> Tensor:
        """Eigenvalues of Θ, largest first, shape (R,).

        Args:
            parameters: Names of parameters; by default all.

        Raises:
            ValueError: If outputs were sketched: the spectrum of a sketch is another one.
        """
        self._need_exact()
        return spectrum(self.gram(parameters))

    def trace(self, parameters: str | Iterable[str] | None = None) -> float:
        """The trace tr Θ = Σ_i ‖∂f_i/∂θ‖²_F; unbiased where outputs were sketched."""
        return float(self._traces(parameters).sum() if self.is_exact else
                     self._traces(parameters).mean())  # fmt: skip

    def trace_error(self, parameters: str | Iterable[str] | None = None) -> float:
        """Standard error of :meth:`trace`; 0 where outputs were enumerated."""
        traces = self._traces(parameters)
        return 0.0 if self.is_exact else float(traces.std() / len(traces) ** 0.5)

    def _traces(self, parameters: str | Iterable[str] | None) -> Tensor:
        """Σ_i (v_k·J_i)², shape (K,)."""
        return self.gram(parameters).diagonal().reshape(self.samples, -1).sum(0)

    def condition(self, parameters: str | Iterable[str] | None = None) -> float:
        """λ_max / λ_min of Θ; ``inf`` where λ_min is within rounding of zero."""
        return condition_of(self.eigenvalues(parameters), self.precision)

    def effective_rank(self, parameters: str | Iterable[str] | None = None) -> float:
        """The exponential of the entropy of λ / Σ λ.

        Roy and Vetterli, The effective rank, EUSIPCO 2007, definition 1.
        """
        return effective_rank_of(self.eigenvalues(parameters))

    def spectrum(self, parameters: str | Iterable[str] | None = None) -> Spectrum:
        """Eigenvalues, condition and effective rank at once.

        Args:
            parameters: Names of parameters; by default all.
        """
        values = self.eigenvalues(parameters)
        return Spectrum(values, condition_of(values, self.precision), effective_rank_of(values))

    def alignment(self, targets: Tensor, parameters: str | Iterable[str] | None = None) -> float:
        """Centred kernel alignment of :meth:`sample_kernel` with the labels' kernel, from −1 to 1.

        Cortes et al., Algorithms for learning kernels based on centered alignment,
        arXiv:1203.0550, equation 5; of the tangent kernel: Baratin et al., arXiv:2008.00938.

        Args:
            targets: Class labels, shape (N,), of integers; or numbers, shape (N, …).
            parameters: Names of parameters; by default all.

        Returns:
            ``nan`` if all samples have the same target, or the kernel is constant.
        """
        return label_alignment(self.sample_kernel(parameters), targets)

    def alignment_error(
        self, targets: Tensor, parameters: str | Iterable[str] | None = None
    ) -> float:
        """Standard error of :meth:`alignment` by the jackknife; 0 where outputs were enumerated."""
        if self.is_exact:
            return 0.0
        gram = self.gram(parameters)
        return self._jackknife(
            lambda rows: label_alignment(
                _over_outputs(gram[rows][:, rows], self.samples, False), targets
            )
        )

    def drift_error(
        self, since: NeuralTangentKernel, parameters: str | Iterable[str] | None = None
    ) -> float:
        """Standard error of :meth:`drift` by the jackknife; 0 where outputs were enumerated."""
        if self.is_exact:
            return 0.0
        now = _apart(self.gram(parameters), self.samples)
        then = _apart(since.gram(parameters), self.samples)
        return self._jackknife(lambda rows: drift(now[rows][:, rows], then[rows][:, rows]))

    def _jackknife(self, of_rows: Callable[[Tensor], float]) -> float:
        """Standard error of a function of the kernel over its random cotangents."""
        places = torch.arange(len(next(iter(self.grams.values())))).reshape(self.samples, -1)
        count = places.shape[1]
        without = [of_rows(torch.cat([places[:, :k], places[:, k + 1 :]], 1).flatten())
                   for k in range(count)]  # fmt: skip
        left_out = torch.tensor(without, dtype=torch.float64)
        return float(((count - 1) * left_out.var(correction=0)).sqrt())

    def drift(
        self, since: NeuralTangentKernel, parameters: str | Iterable[str] | None = None
    ) -> float:
        """1 − ⟨Θ, Θ₀⟩ / (‖Θ‖ ‖Θ₀‖) against a kernel on the same samples: 0 if it only scaled.

        Fort et al., Deep learning versus kernel learning, arXiv:2010.15110, section 2 (kernel
        distance).

        Args:
            since: The earlier kernel Θ₀.
            parameters: Names of parameters; by default all.
        """
        now, then = self.gram(parameters), since.gram(parameters)
        if not self.is_exact:
            now, then = _apart(now, self.samples), _apart(then, self.samples)
        return drift(now, then)

    def _chosen(self, parameters: str | Iterable[str] | None) -> list[str]:
        if parameters is None:
            chosen = list(self.grams)
        else:
            named = (parameters,) if isinstance(parameters, str) else parameters
            chosen = list(dict.fromkeys(self.first_names.get(name, name) for name in named))
        for name in chosen:
            if name not in self.grams:
                raise KeyError(
                    self.missing.get(name) or f"no kernel of {name!r}; {nearest(name, self.grams)}"
                )
        if not chosen:
            raise KeyError("no parameter has a kernel")
        return chosen

    def _need_exact(self) -> None:
        if not self.is_exact:
            raise ValueError(
                f"{_SKETCHED} ({self.outputs} per sample); raise max_outputs, or take an output "
                "with fewer"
            )

    def __repr__(self) -> str:
        kind = "exact" if self.is_exact else "sketched"
        return (
            f"NeuralTangentKernel({self.samples} samples × {self.outputs} outputs, {kind}, "
            f"{len(self.grams)} parameters, trace {self.trace():.4g})"
        )


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What the eigenvalues of a kernel say.

    Args:
        values: λ, largest first.
        condition: λ_max / λ_min.
        effective_rank: exp of the entropy of λ / Σ λ.
    """

    values: Tensor
    condition: float
    effective_rank: float


def spectrum(gram: Tensor) -> Tensor:
    """Eigenvalues of a Gram matrix, largest first; ``nan`` if it is not finite."""
    if not bool(torch.isfinite(gram).all()):
        return torch.full((len(gram),), torch.nan, dtype=gram.dtype)
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.flip(0)


def condition_of(eigenvalues: Tensor, precision: float) -> float:
    """λ_max / λ_min; ``inf`` where λ_min is within rounding of zero, ``nan`` where all are zero.

    Args:
        eigenvalues: Largest first.
        precision: Relative precision of the rows that the matrix is of.
    """
    largest, smallest = float(eigenvalues[0]), float(eigenvalues[-1])
    if largest != largest or largest <= 0:
        return float("nan")
    return largest / smallest if smallest > len(eigenvalues) * precision * largest else float("inf")


def effective_rank_of(eigenvalues: Tensor) -> float:
    """The exponential of the entropy of λ / Σ λ; negative λ, which are rounding, count as zero."""
    shares = eigenvalues.clamp(min=0)
    shares = shares / shares.sum()
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def drift(now: Tensor, then: Tensor) -> float:
    """1 − the cosine of two matrices; ``nan`` if one is zero."""
    norms = torch.linalg.matrix_norm(now) * torch.linalg.matrix_norm(then)
    return float(1 - (now * then).sum() / norms)


def label_alignment(kernel_NN: Tensor, targets: Tensor) -> float:
    """Centred alignment of a kernel over samples with that of their targets."""
    labels = targets.detach().cpu()
    if labels.is_floating_point():
        features = labels.double().reshape(len(labels), -1)
    else:
        codes = torch.unique(labels.reshape(len(labels), -1), dim=0, return_inverse=True)[1]
        features = F.one_hot(codes.reshape(-1)).double()
    mine, theirs = _centred(kernel_NN), _centred(features @ features.T)
    norms = torch.linalg.matrix_norm(mine) * torch.linalg.matrix_norm(theirs)
    return float((mine * theirs).sum() / norms)


def _centred(kernel_NN: Tensor) -> Tensor:
    rows = kernel_NN - kernel_NN.mean(0, keepdim=True)
    return rows - rows.mean(1, keepdim=True)


def _apart(gram: Tensor, samples: int) -> Tensor:
    """Inner products along different random cotangents, those along the same one left out.

    Products of the latter do not have the expectation of Θ's own.
    """
    count = len(gram) // samples
    different = ~torch.eye(count, dtype=torch.bool)
    return gram * different.repeat(samples, samples)


def _over_outputs(gram: Tensor, samples: int, is_exact: bool) -> Tensor:
    shaped = gram.reshape(samples, -1, samples, len(gram) // samples)
    summed = torch.einsum("icjc->ij", shaped)
    return summed if is_exact else summed / shaped.shape[1]


__all__ += ["condition_of", "effective_rank_of"]

"""Tools that give per-sample results beside the gradient, each as its own documentation has it.

Every contender runs forward and backward, leaves the batch gradient in ``.grad``, and makes its
result; what puts the result into common units is not timed. Rows are contributions c_i to the batch
gradient, Σ_i c_i = ∂L/∂θ. Results, all parameters together:

- ``norms``: ‖c_i‖², shape (N,);
- ``gram``: c_i · c_k, shape (N, N);
- ``columns``: Σ_i c_ij² of each scalar j, in the order of ``parameters()``, shape (P,);
- ``gradient norms``, ``gradient sums``: of each parameter's batch gradient, shape (L,).

A tool is added by a class that derives from :class:`Contender`, named in ``TOOLS``.
"""

from __future__ import annotations

import copy
import importlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarking.workloads import Workload, batch_loss
from jacoscope import capture

__all__ = ["OURS", "TOOLS", "WANTS", "Contender", "Plain"]

WANTS: dict[str, tuple[str, ...]] = {
    "norms": ("norms",),
    "norms + Gram": ("norms", "gram"),
    "norms + columns": ("norms", "columns"),
    "all three": ("norms", "gram", "columns"),
    "batch gradient": (),
}
OURS = "jacoscope"


class Contender(ABC):
    """One tool asked for one kind of result, with a model of its own.

    Args:
        workload: The workload.
        want: One of ``WANTS``.

    Attributes:
        gives: The kinds of results that the tool has.
        tells: What it finds besides, of the batch's gradient.
        package: The distribution that has to be installed for it.
        lingers: Whether what runs after it is slower for a while.
    """

    gives: ClassVar[tuple[str, ...]]
    tells: ClassVar[tuple[str, ...]] = ()
    package: ClassVar[str] = "torch"
    lingers: ClassVar[bool] = False

    def __init__(self, workload: Workload, want: str) -> None:
        self.workload = workload
        self.wants = WANTS[want]
        self.model = copy.deepcopy(workload.model)

    @abstractmethod
    def run(self) -> None:
        """Forward, backward, and the result; this is timed."""

    def found(self) -> dict[str, Tensor]:
        """The result of the last run in common units, in double precision."""
        return {}

    def clear(self) -> None:
        """Forget the gradients and the result of the last run."""
        self.model.zero_grad(set_to_none=True)

    def gradient(self) -> Tensor:
        """The batch gradient that the last run left, shape (P,)."""
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])


class Plain(Contender):
    """Forward and backward, nothing else."""

    gives = ("batch gradient",)

    def run(self) -> None:
        """Forward and backward."""
        torch.autograd.backward(self.workload.loss(self.model))


class Jacoscope(Contender):
    """``jacoscope.capture``.

    Args:
        workload: The workload.
        want: One of ``WANTS``.
        parameters: Names of the parameters to watch; all by default.
    """

    package = "jacoscope"
    gives = ("norms", "norms + Gram", "norms + columns", "all three")
    names: ClassVar = {"norms": "row_sq_norms", "gram": "gram", "columns": "column_sq_norms"}

    def __init__(
        self, workload: Workload, want: str, parameters: Sequence[str] | None = None
    ) -> None:
        super().__init__(workload, want)
        self.parameters = parameters
        self._result: dict[str, Tensor] = {}
        self._columns: list[Tensor] = []

    def run(self) -> None:
        """Forward and captured backward; then the layers' norms and Gram matrices are added up."""
        wants = [self.names[want] for want in self.wants]
        loss = self.workload.loss(self.model)
        samples = self.workload.samples
        with capture(loss, self.model, samples, wants, parameters=self.parameters) as jacobians:
            torch.autograd.backward(loss)
        if jacobians.coverage != 1:
            name, reason = next(iter(jacobians.missing.items()))
            raise RuntimeError(f"{name} is withheld: {reason}")
        each = list(jacobians.values())
        self._result = {"norms": torch.stack([one.row_sq_norms() for one in each]).sum(0)}
        if "gram" in self.wants:
            self._result["gram"] = torch.stack([one.gram() for one in each]).sum(0)
        self._columns = [one.column_sq_norms() for one in each] if "columns" in self.wants else []

    def found(self) -> dict[str, Tensor]:
        """As captured."""
        found = {name: value.double() for name, value in self._result.items()}
        return found | ({"columns": _joined(self._columns)} if self._columns else {})

    def clear(self) -> None:
        """Forget the gradients and the result."""
        super().clear()
        self._result, self._columns = {}, []


class Materialised(Contender):
    """A tool that makes all rows, N × P, of which results are then taken."""

    gives = ("norms", "norms + Gram", "norms + columns", "all three")

    def __init__(self, workload: Workload, want: str) -> None:
        super().__init__(workload, want)
        self._result: dict[str, Any] = {}

    def take(self, rows: Sequence[Tensor]) -> None:
        """Results of the rows, one parameter after the other, each the fastest way known.

        Args:
            rows: Each parameter's rows, N in the first dimension.
        """
        flat = [each.flatten(1) for each in rows]
        result: dict[str, Any] = {}
        if "gram" in self.wants:
            result["gram"] = sum(each @ each.T for each in flat)
            result["norms"] = result["gram"].diagonal()
        else:
            result["norms"] = torch.stack([each.norm(dim=1) for each in flat]).square().sum(0)
        if "columns" in self.wants:
            result["columns"] = [torch.einsum("np,np->p", each, each) for each in flat]
        self._result = result

    @property
    def scale(self) -> float:
        """What the tool's rows are multiples of c_i by."""
        return 1.0

    def found(self) -> dict[str, Tensor]:
        """Brought to contributions."""
        found = {name: value for name, value in self._result.items() if name in self.wants}
        if "columns" in found:
            found["columns"] = _joined(found["columns"])
        return {name: value.double() / self.scale**2 for name, value in found.items()}

    def clear(self) -> None:
        """Forget the gradients and the result."""
        super().clear()
        self._result = {}


class OpacusHooks(Materialised):
    """Opacus' per-sample gradients by module hooks."""

    package = "opacus"
    functorch: ClassVar = False

    def __init__(self, workload: Workload, want: str) -> None:
        super().__init__(workload, want)
        module = importlib.import_module("opacus.grad_sample").GradSampleModule
        self.model = module(self.model, loss_reduction="mean", force_functorch=self.functorch)

    def run(self) -> None:
        """Forward, backward with per-sample gradients, results of these."""
        torch.autograd.backward(self.workload.loss(self.model))
        self.take(_attributes(self.model, "grad_sample"))

    @property
    def scale(self) -> float:
        """Opacus gives the gradients of the samples' own losses."""
        return self.workload.samples


class OpacusFunctorch(OpacusHooks):
    """The same, by ``torch.func`` layer by layer."""

    functorch = True


class OpacusGhost(Contender):
    """Opacus' ghost norms: the first of its two backwards, in which norms are made."""

    package = "opacus"
    gives = ("norms",)

    def __init__(self, workload: Workload, want: str) -> None:
        super().__init__(workload, want)
        package = "opacus.grad_sample.grad_sample_module_fast_gradient_clipping"
        module = importlib.import_module(package).GradSampleModuleFastGradientClipping
        self.wrapped = module(self.model, loss_reduction="mean", use_ghost_clipping=True)
        self._norms: Tensor | None = None

    def run(self) -> None:
        """Forward, backward with norms."""
        torch.autograd.backward(self.workload.loss(self.wrapped))
        self._norms = self.wrapped.get_norm_sample()

    def found(self) -> dict[str, Tensor]:
        """Norms of the samples' own gradients, brought to contributions."""
        assert self._norms is not None
        return {"norms": self._norms.double().square() / self.workload.samples**2}

    def clear(self) -> None:
        """Forget the gradients and the norms."""
        self.wrapped.zero_grad(set_to_none=True)
        self._norms = None


class BackPACK(Contender):
    """BackPACK's extensions that make no rows: norms, and columns (sums of squares)."""

    package = "backpack-for-pytorch"
    gives = ("norms", "norms + columns")

    def __init__(self, workload: Workload, want: str) -> None:
        super().__init__(workload, want)
        self.backpack = importlib.import_module("backpack")
        known = importlib.import_module("backpack.extensions")
        self.model = self.backpack.extend(self.model)
        self.extensions = [known.BatchL2Grad()]
        if "columns" in self.wants:
            self.extensions.append(known.SumGradSquared())
        self._norms: Tensor | None = None

    def run(self) -> None:
        """Forward, backward with the extensions."""
        loss = self.workload.loss(self.model)
        with self.backpack.backpack(*self.extensions):
            torch.autograd.backward(loss)
        self._norms = torch.stack(_attributes(self.model, "batch_l2")).sum(0)

    def found(self) -> dict[str, Tensor]:
        """As they are: BackPACK's rows are contributions."""
        assert self._norms is not None
        found = {"norms": self._norms.double()}
        if "columns" in self.wants:
            found["columns"] = _joined(_attributes(self.model, "sum_grad_squared"))
        return found

    def clear(self) -> None:
        """Forget the gradients and the results."""
        super().clear()
        self._norms = None
        _delete(self.model, "batch_l2", "sum_grad_squared")


class BackPACKRows(Materialised):
    """BackPACK's ``BatchGrad``: all rows."""

    package = "backpack-for-pytorch"

    def __init__(self, workload: Workload, want: str) -> None:
        super().__init__(workload, want)
        self.backpack = importlib.import_module("backpack")
        self.extension = importlib.import_module("backpack.extensions").BatchGrad()
        self.model = self.backpack.extend(self.model)

    def run(self) -> None:
        """Forward, backward with rows, results of these."""
        loss = self.workload.loss(self.model)
        with self.backpack.backpack(self.extension):
            torch.autograd.backward(loss)
        self.take(_attributes(self.model, "grad_batch"))

    def clear(self) -> None:
        """Forget the gradients, rows and results."""
        super().clear()
        _delete(self.model, "grad_batch")


class TorchJD(Contender):
    """TorchJD's Gramian of the samples' losses; its diagonal has the norms."""

    package = "torchjd"
    gives = ("norms + Gram",)

    def __init__(self, workload: Workload, want: str) -> None:
        super().__init__(workload, want)
        engine = importlib.import_module("torchjd.autogram").Engine
        self.engine = engine(self.model, batch_dim=0)
        count = workload.samples
        self.weights = torch.full((count,), 1 / count, device=workload.inputs.device)
        self._gram: Tensor | None = None

    def run(self) -> None:
        """Forward, the Gramian, and the backward with equal weights."""
        losses = self.workload.losses(self.model)
        self._gram = self.engine.compute_gramian(losses)
        torch.autograd.backward(losses, self.weights)

    def found(self) -> dict[str, Tensor]:
        """The Gramian of the samples' own losses, brought to contributions."""
        assert self._gram is not None
        gram = self._gram.as_subclass(Tensor).double() / self.workload.samples**2
        return {"gram": gram, "norms": gram.diagonal()}

    def clear(self) -> None:
        """Forget the gradients and the Gramian."""
        super().clear()
        self._gram = None


class TorchFunc(Materialised):
    """``torch.func``: vmap over the samples of grad, as in PyTorch's tutorial."""

    def run(self) -> None:
        """All samples' gradients at once, results of these, and their mean as the gradient."""
        parameters = {name: p.detach() for name, p in self.model.named_parameters()}

        def loss(given: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
            return batch_loss(functional_call(self.model, given, inputs[None]), targets[None])

        batch = self.workload.inputs, self.workload.targets
        rows = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, *batch)
        self.take(list(rows.values()))
        for name, parameter in self.model.named_parameters():
            parameter.grad = rows[name].mean(0)

    @property
    def scale(self) -> float:
        """Gradients of the samples' own losses."""
        return self.workload.samples


class Histograms(Contender):
    """TensorBoard's and W&B's way of watching: each gradient's histogram, as of the batch."""

    package = "tensorboard"
    # Its thread and numpy's work leave PyTorch's threads on one core: for 50 ms all takes twice as
    # long.
    lingers = True
    gives = ("batch gradient",)
    tells = ("gradient sums",)

    def __init__(self, workload: Workload, want: str) -> None:
        super().__init__(workload, want)
        self._folder = tempfile.TemporaryDirectory()
        tensorboard = importlib.import_module("torch.utils.tensorboard")
        self.writer = tensorboard.SummaryWriter(self._folder.name)
        self._steps = 0

    def run(self) -> None:
        """Forward, backward, and ``add_histogram`` of every gradient."""
        torch.autograd.backward(self.workload.loss(self.model))
        for name, parameter in self.model.named_parameters():
            self.writer.add_histogram(name, parameter.grad, self._steps)
        self.writer.flush()  # or else its thread would be at work while others are timed
        self._steps += 1

    def found(self) -> dict[str, Tensor]:
        """The sums of the gradients, read back from the event file."""
        accumulator = importlib.import_module(
            "tensorboard.backend.event_processing.event_accumulator"
        ).EventAccumulator(self._folder.name, {"histograms": 0})
        accumulator.Reload()
        names = [name for name, _ in self.model.named_parameters()]
        last = [accumulator.Histograms(name)[-1].histogram_value.sum for name in names]
        return {"gradient sums": torch.tensor(last, dtype=torch.float64)}


class GradNorm(Contender):
    """Lightning's ``grad_norm``: each gradient's norm, as of the batch."""

    package = "lightning"
    gives = ("batch gradient",)
    tells = ("gradient norms",)

    def __init__(self, workload: Workload, want: str) -> None:
        super().__init__(workload, want)
        self.grad_norm = importlib.import_module("lightning.pytorch.utilities").grad_norm
        self._norms: dict[str, Any] = {}

    def run(self) -> None:
        """Forward, backward, norms."""
        torch.autograd.backward(self.workload.loss(self.model))
        self._norms = self.grad_norm(self.model, norm_type=2)

    def found(self) -> dict[str, Tensor]:
        """The norms in the order of the parameters."""
        names = [name for name, _ in self.model.named_parameters()]
        norms = [float(self._norms[f"grad_2.0_norm/{name}"]) for name in names]
        return {"gradient norms": torch.tensor(norms, dtype=torch.float64)}


TOOLS: dict[str, type[Contender]] = {
    OURS: Jacoscope,
    "Opacus hooks": OpacusHooks,
    "Opacus functorch": OpacusFunctorch,
    "Opacus ghost": OpacusGhost,
    "BackPACK": BackPACK,
    "BackPACK BatchGrad": BackPACKRows,
    "TorchJD": TorchJD,
    "torch.func": TorchFunc,
    "add_histogram": Histograms,
    "grad_norm": GradNorm,
    "plain again": Plain,
}


def _joined(each: Sequence[Tensor]) -> Tensor:
    return torch.cat([one.flatten() for one in each]).double()


def _attributes(model: nn.Module, attribute: str) -> list[Tensor]:
    """What a tool has put on each parameter."""
    named = dict(model.named_parameters())
    without = [name for name, parameter in named.items() if not hasattr(parameter, attribute)]
    if without:
        raise NotImplementedError(f"there is no {attribute} of {without[0]}")
    return [getattr(parameter, attribute) for parameter in named.values()]


def _delete(model: nn.Module, *names: str) -> None:
    """Delete what a tool has put on the parameters."""
    for parameter in model.parameters():
        for name in names:
            vars(parameter).pop(name, None)

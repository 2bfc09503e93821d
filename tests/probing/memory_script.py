"""Probes a layer whose dense Jacobian has 21 GB, and prints what that took; run as a script.

The layer is the first of W₂ tanh(W₁ x + b₁): ∂f_ic/∂W₁ = δ_ic x_iᵀ with δ_ic = w₂_c ∘ tanh′(h_i),
so that Θ[(i, c), (j, d)] = (x_i · x_j) (δ_ic · δ_jd). Shape suffixes: N samples, C outputs per
sample, W width, R = N·C rows.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jacoscope.probing import neural_tangent_kernel, output_jacobian

N, C, W = 2, 160, 4096


def peak() -> int:
    """The most bytes that this process has held so far.

    ``ru_maxrss`` would be at least what the process that started this one held.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def closed_form(model: nn.Sequential, x_NW: Tensor) -> Tensor:
    """Θ of the first layer's weight, (R, R), in double precision."""
    with torch.no_grad():
        slope_NW = 1 - model[0](x_NW).double().tanh().square()
        delta_RW = (slope_NW[:, None] * model[2].weight.double()).reshape(N * C, W)
        inputs_RW = x_NW.double().repeat_interleave(C, 0)
        return (inputs_RW @ inputs_RW.T) * (delta_RW @ delta_RW.T)


def norms(model: nn.Sequential, x: Tensor, **settings: Any) -> tuple[str, Tensor]:
    jacobian = output_jacobian(model, x, spectral=False, **settings)
    return jacobian.method, jacobian.sq_norms("0.weight")


def spectrum(model: nn.Sequential, x: Tensor, **settings: Any) -> tuple[str, Tensor]:
    kernel = neural_tangent_kernel(model, x, **settings)
    return kernel.method, kernel.eigenvalues()


def main(memory_budget: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(W, W), nn.Tanh(), nn.Linear(W, C))
    x = torch.randn(N, W)
    for probe in (norms, spectrum):  # what a first call imports is not counted
        probe(nn.Sequential(nn.Linear(3, 2)), torch.ones(2, 3), parameters="0.weight")
    before = peak()
    theta = closed_form(model, x)
    wanted = {
        "norms": theta.diagonal().reshape(N, C).sum(1),
        "spectrum": torch.linalg.eigvalsh(theta).flip(0),
    }
    report: dict[str, Any] = {
        "jacobian": N * C * model[0].weight.numel() * 4,
        "model": sum(p.numel() * p.element_size() for p in model.parameters()),
    }
    for probe in (norms, spectrum):
        start = time.perf_counter()
        method, found = probe(
            model, x, parameters="0.weight", max_outputs=C, memory_budget=memory_budget
        )
        exact = wanted[probe.__name__]
        report[probe.__name__] = {
            "grown": peak() - before,
            "seconds": time.perf_counter() - start,
            "error": float((found - exact).abs().max() / exact.abs().max()),
            "method": method,
        }
    return report


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))

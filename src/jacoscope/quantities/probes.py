"""Quantities of probes: how outputs move with parameters, inputs and layers, and all else equal.

f_i are the C outputs of sample i, N the number of samples of the probe, x_i a sample's input, h_a
the output of module a. L is the loss of the probe's batch, Δθ the optimiser's step. Unlike the
others these are taken on a copy of the model after the step; what belongs to the step is at the
weights before it, what belongs to the outputs at those after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jacoscope.config import QuantityName
from jacoscope.quantities._quantity import FloatArray, Quantity

__all__ = [
    "ALL_ELSE_EQUAL_QUANTITIES",
    "INPUT_JACOBIAN_QUANTITIES",
    "LAYER_JACOBIAN_QUANTITIES",
    "OUTPUT_JACOBIAN_QUANTITIES",
    "TANGENT_KERNEL_QUANTITIES",
]

_NONE = "unchanged: the loss has no part in it"
_NOT_FINITE = "an output or a derivative is not finite"
_NOVAK = "Novak et al., Sensitivity and generalization in neural networks, arXiv:1802.08760"
_PENNINGTON = "Pennington et al., Resurrecting the sigmoid, arXiv:1711.04735"
_JACOT = "Jacot et al., Neural tangent kernel, arXiv:1806.07572"
_LCA = "Lan et al., LCA: loss change allocation for neural network training, arXiv:1909.01440"
_SKETCH = "; from random cotangents, with a standard error, where C exceeds probes.max_outputs"
_EXACT = "; withheld where C exceeds probes.max_outputs"


def _itself(name: str) -> Callable[[Mapping[str, FloatArray]], FloatArray]:
    return lambda s: s[name]


def _quantity(
    name: QuantityName,
    title: str,
    formula: str,
    unit: str,
    source: str,
    nan_when: str,
    reading: str,
    *,
    scaling: str = _NONE,
    is_log: bool = True,
) -> Quantity:
    """A quantity whose one statistic is named after it."""
    return Quantity(
        name, title, formula, unit, source, scaling, nan_when, reading, (str(name),),
        _itself(name), is_log,
    )  # fmt: skip


OUTPUT_JACOBIAN_QUANTITIES: tuple[Quantity, ...] = (
    _quantity(
        "output_jacobian_norm",
        "Norm of the output Jacobian",
        f"√(mean over i of ‖∂f_i/∂θ‖²_F){_SKETCH}",
        "output per unit of parameter",
        f"{_NOVAK}, equation 2, by θ instead of x",
        _NOT_FINITE,
        "How far the outputs move when the weights are shaken: the model's own sensitivity, "
        "whatever the labels say. A gradient that vanishes while this does not means that the loss "
        "is content, not that the layer is dead.",
    ),
    _quantity(
        "output_jacobian_spectral_norm",
        "Spectral norm of the output Jacobian",
        f"mean over i of σ_max(∂f_i/∂θ){_EXACT}",
        "output per unit of parameter",
        f"{_NOVAK}, section 3 (Frobenius there), by θ instead of x",
        _NOT_FINITE,
        "The most that a unit step of the weights moves a sample's outputs. Close to the Frobenius "
        "norm: all outputs hang on the same direction.",
    ),
)

TANGENT_KERNEL_QUANTITIES: tuple[Quantity, ...] = (
    _quantity(
        "ntk_trace",
        "Trace of the tangent kernel",
        f"tr Θ = Σᵢ ‖∂f_i/∂θ‖²_F, Θ = J Jᵀ, J = ∂f/∂θ of shape N·C × P{_SKETCH}",
        "(output per unit of parameter)²",
        f"{_JACOT}, definition of Θ in section 4",
        _NOT_FINITE,
        "How fast gradient descent can move the outputs; it adds up over layers, so that layers "
        "can be compared.",
    ),
    _quantity(
        "ntk_top_eigenvalue",
        "Largest eigenvalue of the tangent kernel",
        f"λ_max of Θ{_EXACT}",
        "(output per unit of parameter)²",
        f"{_JACOT}, section 5 (kernel principal components)",
        _NOT_FINITE,
        "The fastest direction. With squared loss, gradient descent on the sum over samples is "
        "stable below a learning rate of 2 / λ_max.",
    ),
    _quantity(
        "ntk_condition",
        "Condition of the tangent kernel",
        f"λ_max / λ_min of Θ{_EXACT}",
        "1",
        "Xiao et al., Disentangling trainability and generalization in deep neural networks, "
        "arXiv:1912.13053, section 3",
        f"the kernel is zero, or {_NOT_FINITE}; inf where λ_min is within rounding of zero",
        "How much slower the slowest direction learns than the fastest. inf: some combination of "
        "outputs cannot be learnt by these weights at all.",
    ),
    _quantity(
        "ntk_effective_rank",
        "Effective rank of the tangent kernel",
        f"exp(−Σᵣ pᵣ ln pᵣ), pᵣ = λᵣ / Σλ, λ the eigenvalues of Θ; at most N·C{_EXACT}",
        "1",
        "Roy and Vetterli, The effective rank, EUSIPCO 2007, definition 1, of Θ",
        f"the kernel is zero, or {_NOT_FINITE}",
        "How many directions of the outputs move on their own.",
        is_log=False,
    ),
    _quantity(
        "ntk_alignment",
        "Alignment of the tangent kernel with the labels",
        "⟨HKH, HYH⟩ / (‖HKH‖ ‖HYH‖), Kᵢₖ = Σ_c Θ_(ic)(kc), Yᵢₖ = yᵢ·yₖ of one-hot labels or "
        f"target values, H = 1 − 1/N{_SKETCH.replace('; from', '; K from')}",
        "1",
        "Cortes et al., Algorithms for learning kernels based on centered alignment, "
        "arXiv:1203.0550, equation 5; of the tangent kernel Baratin et al., arXiv:2008.00938",
        "labels are not known, all samples have the same, or the kernel is constant",
        "Whether samples that should get the same answer are learnt together: 0 at random, up to "
        "1. It rises where features are learnt. Of few samples it is noisy.",
        is_log=False,
    ),
    _quantity(
        "ntk_drift",
        "Drift of the tangent kernel",
        "1 − ⟨Θ, Θ₀⟩ / (‖Θ‖ ‖Θ₀‖), Θ₀ the kernel of the first probe, on the same samples",
        "1",
        "Fort et al., Deep learning versus kernel learning, arXiv:2010.15110, section 2 (kernel "
        "distance)",
        "probes.batch is each, so that samples change; or a kernel is zero or not finite",
        "0: the network still learns as a linear model would around its start (lazy); towards 1: "
        "its features have changed.",
        is_log=False,
    ),
)

INPUT_JACOBIAN_QUANTITIES: tuple[Quantity, ...] = (
    _quantity(
        "input_jacobian_norm",
        "Norm of the input Jacobian",
        f"√(mean over i of ‖∂f_i/∂x_i‖²_F); of tokens, x is their embedding{_SKETCH}",
        "output per unit of input",
        f"{_NOVAK}, equation 2",
        _NOT_FINITE,
        "How far the outputs move when the input is shaken. Lower at the same accuracy goes with "
        "better generalisation (in the paper); rising late in training: memorising.",
    ),
    _quantity(
        "input_jacobian_spectral_norm",
        "Spectral norm of the input Jacobian",
        f"mean over i of σ_max(∂f_i/∂x_i){_EXACT}",
        "output per unit of input",
        f"{_PENNINGTON}, section 2",
        _NOT_FINITE,
        "The most that a unit step of the input moves the outputs: a local Lipschitz constant.",
    ),
    _quantity(
        "input_jacobian_condition",
        "Condition of the input Jacobian",
        f"median over i of σ_max / σ_min of ∂f_i/∂x_i, over min(C, D) singular values{_EXACT}",
        "1",
        f"{_PENNINGTON}, section 1 (dynamical isometry: all singular values near 1)",
        f"the Jacobian is zero, or {_NOT_FINITE}; inf where σ_min is within rounding of zero",
        "1: inputs keep their shape on the way to the outputs; large: some directions are lost.",
    ),
)

LAYER_JACOBIAN_QUANTITIES: tuple[Quantity, ...] = (
    _quantity(
        "layer_jacobian_mean_sq",
        "Mean squared singular value between layers",
        "mean over i of tr(J Jᵀ) / C, J = ∂h_b/∂h_a of sample i for neighbours a, b in "
        f"probes.chain, C the size of h_b{_SKETCH}",
        "(unit of h_b per unit of h_a)²",
        f"{_PENNINGTON}, section 2 (χ)",
        _NOT_FINITE,
        "Above 1, signals and gradients grow from layer to layer; below 1 they shrink.",
    ),
    _quantity(
        "layer_jacobian_spectral_norm",
        "Largest singular value between layers",
        "mean over i of σ_max(∂h_b/∂h_a); withheld where both sizes exceed probes.max_outputs",
        "unit of h_b per unit of h_a",
        f"{_PENNINGTON}, section 2",
        _NOT_FINITE,
        "The most that one layer's output moves with that of the one before.",
    ),
    _quantity(
        "layer_jacobian_condition",
        "Condition between layers",
        "median over i of σ_max / σ_min of ∂h_b/∂h_a; withheld where both sizes exceed "
        "probes.max_outputs",
        "1",
        f"{_PENNINGTON}, section 1",
        f"the Jacobian is zero, or {_NOT_FINITE}; inf where σ_min is within rounding of zero",
        "1: dynamical isometry; inf: directions are lost, as rectified units do.",
    ),
)

ALL_ELSE_EQUAL_QUANTITIES: tuple[Quantity, ...] = (
    _quantity(
        "predicted_change",
        "Change of the loss that the derivative promised",
        "Σ g·Δθ over the layer, g = ∂L/∂θ at the weights before the step",
        "loss",
        f"first order of a Taylor series, as {_LCA}, equation 2",
        "the gradient is not finite",
        "What the layer's move should have done to the loss, all else equal. Negative: it promised "
        "to lower it.",
        scaling="×s, for the same Δθ",
        is_log=False,
    ),
    _quantity(
        "second_order_change",
        "Second-order term of the change",
        "½ Δθᵀ H Δθ over the layer, H the Hessian of L before the step",
        "loss",
        "second order of a Taylor series; Pearlmutter, Fast exact multiplication by the Hessian, "
        "1994",
        "probes.second_order is off, or the loss has no second derivative",
        "What curvature takes back of the promise. As large as predicted_change: the step is as "
        "long as the slope is good for.",
        scaling="×s, for the same Δθ",
        is_log=False,
    ),
    _quantity(
        "actual_change",
        "Change of the loss with only this layer moved",
        "L(θ with the layer at θ + Δθ) − L(θ); in the row (all), L(θ + Δθ) − L(θ)",
        "loss",
        "own definition (a layer-wise ablation of the step)",
        "the loss is not finite",
        "What the layer's move did, all else equal. Above predicted_change it overshot.",
        scaling="×s, for the same Δθ",
        is_log=False,
    ),
    _quantity(
        "interaction_change",
        "Interaction of the layers",
        "L(θ + Δθ) − L(θ) − Σ over layers of actual_change; in the row (all) alone",
        "loss",
        "own definition (the remainder that no layer did by itself)",
        "the loss is not finite",
        "What the layers did together: positive where they got in each other's way.",
        scaling="×s, for the same Δθ",
        is_log=False,
    ),
    _quantity(
        "allocated_change",
        "Loss change allocated so far",
        "Σ over probes of ∫ g·dθ over the layer along the straight line from the weights of one "
        "probe to the next, by Simpson's rule, on the samples of the first probe; in the row "
        "(all), the true change of their loss",
        "loss",
        f"{_LCA}, equation 3",
        "a gradient is not finite",
        "Which layers learnt: how much of what the run gained (negative) or lost each one did.",
        scaling="×s, for the same Δθ",
        is_log=False,
    ),
    _quantity(
        "allocation_gap",
        "Gap of the allocation",
        "true change of the loss so far − Σ over layers of allocated_change; in the row (all) "
        "alone",
        "loss",
        f"{_LCA}, section 3 (the error of the integration)",
        "a gradient is not finite",
        "What a straight line and Simpson's rule miss between probes. Large: probe more often.",
        scaling="×s, for the same Δθ",
        is_log=False,
    ),
)

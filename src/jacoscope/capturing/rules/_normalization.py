"""Affine parameters of normalisation layers: the normalised input times the gradient."""

from __future__ import annotations

from jacoscope.capturing._layout import LayoutError
from jacoscope.capturing._terms import Term
from jacoscope.capturing.rules._call import Use
from jacoscope.capturing.rules._convolution import channels

__all__ = [
    "batch_norm_weight_rule",
    "channel_bias_rule",
    "group_norm_weight_rule",
    "layer_norm_weight_rule",
    "plain_bias_rule",
    "rms_norm_weight_rule",
]


def layer_norm_weight_rule(use: Use) -> Term:
    """γ of layer normalisation (Ba et al., arXiv:1607.06450)."""
    normal = (use.saved("input") - use.saved("result1")) * use.saved("result2")
    return use.summed(normal * use.grad)


def rms_norm_weight_rule(use: Use) -> Term:
    """γ of root mean square normalisation (Zhang and Sennrich, arXiv:1910.07467)."""
    return use.summed(use.saved("input") * use.saved("result1") * use.grad)


def group_norm_weight_rule(use: Use) -> Term:
    """γ of group normalisation (Wu and He, arXiv:1803.08494)."""
    entry = use.saved("input")
    mean, scale = use.saved("result1"), use.saved("result2")
    grouped = entry.reshape(*mean.shape, -1)
    normal = (grouped - mean.unsqueeze(-1)) * scale.unsqueeze(-1)
    return use.summed(normal.reshape(entry.shape) * use.grad, channels(use.shape, use.grad))


def batch_norm_weight_rule(use: Use) -> Term:
    """γ of batch normalisation, with the statistics that the forward used."""
    node, entry = use.node, use.saved("input")
    if not hasattr(node, "_saved_result2"):
        raise LayoutError("the node has not saved its statistics")
    mean, scale = use.saved("result1"), use.saved("result2")
    if not getattr(node, "_saved_training", True) or not mean.numel():
        mean = use.saved("running_mean")
        scale = (use.saved("running_var") + _epsilon(node)).rsqrt()
    pattern = channels(use.shape, entry)
    normal = (entry - mean.view(pattern)) * scale.view(pattern)
    return use.summed(normal * use.grad, pattern)


def channel_bias_rule(use: Use) -> Term:
    """β of a normalisation over channels: the gradient."""
    return use.summed(use.grad, channels(use.shape, use.grad))


def plain_bias_rule(use: Use) -> Term:
    """β of layer normalisation: the gradient."""
    return use.summed(use.grad)


def _epsilon(node: object) -> float:
    return float(getattr(node, "_saved_eps", getattr(node, "_saved_epsilon", 0.0)))

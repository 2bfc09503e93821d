"""Which rule serves which input of which node."""

from __future__ import annotations

from collections.abc import Callable

from jacoscope.capturing._terms import Term
from jacoscope.capturing.rules import (
    _convolution,
    _elementwise,
    _linear,
    _normalization,
    _recurrent,
    _table_lookup,
)
from jacoscope.capturing.rules._call import Use

__all__ = ["RULES", "Rule", "rule_name"]

Rule = Callable[[Use], Term]

RULES: dict[tuple[str, int], Rule] = {
    ("Addmm", 0): _linear.bias_rule,
    ("Addmm", 1): _linear.left_matrix_rule,
    ("Addmm", 2): _linear.right_matrix_rule,
    ("Mm", 0): _linear.left_matrix_rule,
    ("Mm", 1): _linear.right_matrix_rule,
    ("Bmm", 0): _linear.left_batched_rule,
    ("Bmm", 1): _linear.right_batched_rule,
    ("Baddbmm", 0): _linear.bias_rule,
    ("Baddbmm", 1): _linear.left_batched_rule,
    ("Baddbmm", 2): _linear.right_batched_rule,
    ("Addmv", 0): _linear.bias_rule,
    ("Addmv", 2): _linear.vector_rule,
    ("Mv", 1): _linear.vector_rule,
    ("Linear", 1): _linear.linear_weight_rule,
    ("Linear", 2): _elementwise.minuend_rule,
    ("Convolution", 1): _convolution.convolution_weight_rule,
    ("Convolution", 2): _convolution.convolution_bias_rule,
    ("NativeLayerNorm", 1): _normalization.layer_norm_weight_rule,
    ("NativeLayerNorm", 2): _normalization.plain_bias_rule,
    ("FusedRmsNorm", 1): _normalization.rms_norm_weight_rule,
    ("NativeGroupNorm", 1): _normalization.group_norm_weight_rule,
    ("NativeGroupNorm", 2): _normalization.channel_bias_rule,
    ("NativeBatchNorm", 1): _normalization.batch_norm_weight_rule,
    ("NativeBatchNorm", 2): _normalization.channel_bias_rule,
    ("CudnnBatchNorm", 1): _normalization.batch_norm_weight_rule,
    ("CudnnBatchNorm", 2): _normalization.channel_bias_rule,
    ("MiopenBatchNorm", 1): _normalization.batch_norm_weight_rule,
    ("MiopenBatchNorm", 2): _normalization.channel_bias_rule,
    ("MkldnnRnnLayer", 1): _recurrent.lstm_input_weight_rule,
    ("MkldnnRnnLayer", 2): _recurrent.lstm_hidden_weight_rule,
    ("MkldnnRnnLayer", 3): _recurrent.lstm_bias_rule,
    ("MkldnnRnnLayer", 4): _recurrent.lstm_bias_rule,
    ("Embedding", 0): _table_lookup.embedding_rule,
    ("EmbeddingBag", 0): _table_lookup.embedding_bag_rule,
    ("Index", 0): _table_lookup.index_rule,
    ("IndexSelect", 0): _table_lookup.index_select_rule,
    ("Mul", 0): _elementwise.left_factor_rule,
    ("Mul", 1): _elementwise.right_factor_rule,
    ("Add", 0): _elementwise.minuend_rule,
    ("Add", 1): _elementwise.add_rule,
    ("Sub", 0): _elementwise.minuend_rule,
    ("Sub", 1): _elementwise.subtrahend_rule,
    ("Div", 0): _elementwise.dividend_rule,
    ("Div", 1): _elementwise.divisor_rule,
    ("Expand", 0): _elementwise.expand_rule,
}
"""By operation and input: the closed forms. Everything else goes by the generic rule."""


def rule_name(rule: Rule) -> str:
    """What a rule is called in reports."""
    return rule.__name__.removesuffix("_rule").replace("_", " ")

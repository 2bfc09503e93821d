"""Selection: which parameters of a model are watched, how, and why others are not."""

from jacoscope.selection._parameters import ParameterInfo, walk_parameters
from jacoscope.selection._select import LeftOut, Selection, Target, select

__all__ = ["LeftOut", "ParameterInfo", "Selection", "Target", "select", "walk_parameters"]

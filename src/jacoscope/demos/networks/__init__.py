"""Five kinds of network in plain PyTorch, with parameter names that read well in a chart."""

from jacoscope.demos.networks._conv_net import ConvNet
from jacoscope.demos.networks._lstm import LSTM
from jacoscope.demos.networks._mlp import MLP
from jacoscope.demos.networks._res_net import ResNet
from jacoscope.demos.networks._transformer import Transformer

__all__ = ["LSTM", "MLP", "ConvNet", "ResNet", "Transformer"]

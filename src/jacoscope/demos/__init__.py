"""Models and data of the shipped experiments: small, real, seeded, and trained in a minute.

They know nothing of the monitor: it is added to them as it would be to anyone's project. A YAML
file names the parts by their path here, such as ``class_path: jacoscope.demos.ConvNet``.
"""

from jacoscope.demos.data import Diabetes, Digits, Topics, Vocabulary
from jacoscope.demos.networks import LSTM, MLP, ConvNet, ResNet, Transformer
from jacoscope.demos.tasks import Classifier, LanguageModel, Regressor

__all__ = [
    "LSTM",
    "MLP",
    "Classifier",
    "ConvNet",
    "Diabetes",
    "Digits",
    "LanguageModel",
    "Regressor",
    "ResNet",
    "Topics",
    "Transformer",
    "Vocabulary",
]

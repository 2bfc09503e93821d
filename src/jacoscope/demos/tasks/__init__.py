"""What the networks are trained for: a loss, metrics and an optimiser around any network."""

from jacoscope.demos.tasks._classifier import Classifier
from jacoscope.demos.tasks._language_model import LanguageModel
from jacoscope.demos.tasks._regressor import Regressor

__all__ = ["Classifier", "LanguageModel", "Regressor"]

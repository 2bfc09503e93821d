"""Real data that needs no download: scikit-learn's own sets and the standard library's text."""

from jacoscope.demos.data._diabetes import Diabetes
from jacoscope.demos.data._digits import Digits
from jacoscope.demos.data._topics import Topics
from jacoscope.demos.data._vocabulary import Vocabulary

__all__ = ["Diabetes", "Digits", "Topics", "Vocabulary"]

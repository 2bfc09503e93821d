"""Sample leaderboards: which samples of an epoch push the network hardest, or against the rest."""

from jacoscope.leaderboard._batch import SampleBatch, SampleId, Thing
from jacoscope.leaderboard._boards import Board, Entry, EpochBoards, SampleColumns
from jacoscope.leaderboard._leaderboard import Leaderboard
from jacoscope.leaderboard._shown import ShownSamples, without_things

__all__ = [
    "Board",
    "Entry",
    "EpochBoards",
    "Leaderboard",
    "SampleBatch",
    "SampleColumns",
    "SampleId",
    "ShownSamples",
    "Thing",
    "without_things",
]

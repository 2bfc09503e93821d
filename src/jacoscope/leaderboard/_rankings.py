"""What samples are ranked by.

Shape suffixes: N samples, K rankings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jacoscope.leaderboard._boards import RankedBy
from jacoscope.quantities import FloatArray

__all__ = ["RANKINGS", "Ranking", "scores_of"]


@dataclass(frozen=True)
class Ranking:
    """One way to rank samples.

    Args:
        name: The board's name.
        ranked_by: The number that it is by.
        sign: 1 if the lowest comes first, −1 if the largest does.
        title: What the board shows, in a few words.
        explanation: What the number is and how to read it.
    """

    name: str
    ranked_by: RankedBy
    sign: int
    title: str
    explanation: str


RANKINGS = (
    Ranking(
        "largest_gradient",
        "norm",
        -1,
        "Samples with the largest gradients",
        "‖g_i‖, the norm of the sample's own gradient over all watched parameters, largest first: "
        "how hard it pulls at the network.",
    ),
    Ranking(
        "worst_alignment",
        "alignment",
        1,
        "Samples whose gradients point against their batch",
        "cos(g_i, G), the cosine of the sample's gradient with that of its batch, lowest first: "
        "below zero, a small step down the batch's gradient makes the sample's own loss larger. It "
        "does not find wrong labels: their gradients dominate the batch's, and so align with it.",
    ),
    Ranking(
        "largest_mean_gradient",
        "mean_norm",
        -1,
        "Samples whose gradients stay the largest",
        "The running mean of ‖g_i‖ over the epochs in which the sample was seen, later ones "
        "weighing more, largest first: what keeps pulling hard at the network.",
    ),
    Ranking(
        "largest_mean_loss",
        "mean_loss",
        -1,
        "Samples whose losses stay the largest",
        "The running mean of the sample's loss over the epochs in which it was seen, later ones "
        "weighing more, largest first: what training does not come to terms with. Of all rankings "
        "the best at finding wrong labels.",
    ),
    Ranking(
        "worst_class_alignment",
        "class_alignment",
        1,
        "Samples whose gradients point against their class",
        "The mean of the cosines of the sample's gradient with those of the other samples of its "
        "class in the batch, lowest first: odd ones of their class, such as wrong labels.",
    ),
    Ranking(
        "worst_mean_class_alignment",
        "mean_class_alignment",
        1,
        "Samples whose gradients keep pointing against their class",
        "The running mean, over the epochs in which the sample was seen, of its alignment with its "
        "class: the mean of the cosines of its gradient with those of the other samples of its "
        "class in the batch; later epochs weigh more, lowest first. Steadier than one epoch's.",
    ),
)


def scores_of(numbers: Mapping[str, FloatArray]) -> FloatArray:
    """What each ranking sorts by, lowest first, shape (K, N)."""
    return np.stack([ranking.sign * numbers[ranking.ranked_by] for ranking in RANKINGS])

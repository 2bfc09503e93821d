"""Which layers a sample pushes.

Shape suffixes: R rows.
"""

from __future__ import annotations

import numpy as np

from jacoscope.leaderboard._batch import SampleBatch

__all__ = ["pushes_of"]

_LAYERS = 5
"""How many layers are named."""


def pushes_of(batch: SampleBatch, index: int) -> tuple[tuple[str, float], ...]:
    """The layers with the largest share of a sample's squared gradient norm, largest first.

    Args:
        batch: The batch.
        index: The sample's place in it.

    Returns:
        Up to five layers, each with ‖g_i over the layer‖² / ‖g_i‖². None where the gradient is zero
        or not finite, which has no shares.
    """
    norms_R = np.asarray(batch.norms_RN, dtype=np.float64)[:, index]
    if not np.isfinite(norms_R).all() or norms_R[0] == 0:
        return ()
    shares_R = (norms_R[1:] / norms_R[0]) ** 2
    largest = np.argsort(-shares_R, kind="stable")[:_LAYERS]
    return tuple((batch.rows[1 + row], float(shares_R[row])) for row in largest.tolist())

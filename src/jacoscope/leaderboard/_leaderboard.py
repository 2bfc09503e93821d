"""Gathering the samples of an epoch and ranking them.

Shape suffixes: N samples, M means per sample, K rankings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from jacoscope.leaderboard._batch import SampleBatch, SampleId, Thing
from jacoscope.leaderboard._boards import Board, Entry, EpochBoards, SampleColumns
from jacoscope.leaderboard._epoch import Epoch, order
from jacoscope.leaderboard._layers import LayerLeaders
from jacoscope.leaderboard._means import RunningMeans
from jacoscope.leaderboard._pushes import pushes_of
from jacoscope.leaderboard._rankings import RANKINGS, scores_of
from jacoscope.leaderboard._standing import Standing
from jacoscope.quantities import FloatArray

__all__ = ["Leaderboard"]

_RESERVE = 2
"""How many times as many samples' things are kept as a board has places."""

_COLUMNS_LIMIT = 100_000
"""Most samples whose numbers are handed on in full."""

_AVERAGED = ("norm", "class_alignment", "loss")
"""The numbers that have running means over epochs."""


class Leaderboard:
    """Gathers samples over an epoch, and says which stand out.

    A sample that is seen several times in an epoch counts with its last values. Ties break by id;
    ``nan`` has no place. Running means by sample go on from epoch to epoch: of the norms, losses
    and alignments that a sample had, each weighs ``epochs_decay`` times as much as the next, epochs
    that did not show it left out.

    The boards are ``largest_gradient``, ``worst_alignment``, ``largest_mean_gradient``,
    ``largest_mean_loss`` where losses are known, ``worst_class_alignment`` and
    ``worst_mean_class_alignment`` where classes are known, and ``largest_gradient/LAYER``. While
    the epoch runs a layer's board remembers four times its places, no more: where samples are seen
    several times and their norms fall, its last places may be taken by too small a norm.

    Args:
        size: Places on a board.
        layers_size: Places on a layer's board; 0 for no such boards.
        epochs_decay: Factor by which the weight of a value in a running mean falls with each
            epoch that follows.
    """

    def __init__(self, size: int = 32, layers_size: int = 5, epochs_decay: float = 0.9) -> None:
        self._size = size
        self._layers_size = layers_size
        self._means = RunningMeans(epochs_decay, means=len(_AVERAGED))
        self._begin()

    def _begin(self) -> None:
        self._epoch = Epoch()
        self._layers = LayerLeaders(self._layers_size)
        self._standings = {ranking.name: Standing(_RESERVE * self._size) for ranking in RANKINGS}
        self._things: dict[SampleId, Thing] = {}
        self._pushes: dict[SampleId, tuple[tuple[str, float], ...]] = {}

    def add(self, batch: SampleBatch) -> None:
        """Take up the samples of a captured backward."""
        if not len(batch.ids):
            return
        indices = self._epoch.take(batch)
        self._layers.take(batch, indices)
        self._rank(list(indices))
        self._take_things(batch, indices)

    def _rank(self, names: Sequence[SampleId]) -> None:
        """Let the samples of a batch in where they lead."""
        values_NM = self._averaged(names)
        scores_KN = scores_of(self._numbers(self._means.preview(names, values_NM), names))
        order_KN = order(names, scores_KN)[:, : _RESERVE * self._size]
        came = frozenset(names)
        for standing, places_N, scores_N in zip(
            self._standings.values(), order_KN, scores_KN, strict=True
        ):
            leading = [place for place in places_N.tolist() if not np.isnan(scores_N[place])]
            standing.take([(names[place], float(scores_N[place])) for place in leading], came)

    def _take_things(self, batch: SampleBatch, indices: Mapping[SampleId, int]) -> None:
        """Keep what is shown of the samples on a board, as they are now; let go of the others."""
        leaders = [standing.names for standing in self._standings.values()]
        near = {name for names in leaders for name in names}
        self._things = {name: thing for name, thing in self._things.items() if name in near}
        self._pushes = {name: push for name, push in self._pushes.items() if name in near}
        for name in dict.fromkeys(name for names in leaders for name in names[: self._size]):
            if name not in indices:
                continue
            self._pushes[name] = pushes_of(batch, indices[name])
            thing = batch.thing(indices[name])
            if thing is None:
                self._things.pop(name, None)
            else:  # a copy, as a view would hold the whole batch
                self._things[name] = thing if isinstance(thing, str) else np.array(thing)

    def close_epoch(self, epoch: int, step: int) -> EpochBoards | None:
        """The boards of the samples added since the last call; then begin anew.

        Args:
            epoch: Epochs completed before this one.
            step: Its last step.

        Returns:
            The boards, or ``None`` if nothing was added.
        """
        seen = self._epoch
        if not len(seen):
            return None
        numbers = self._numbers(self._means.update(seen.ids, self._averaged()))
        scores_KN = scores_of(numbers)
        order_KN = order(seen.ids, scores_KN)
        boards = [
            Board(ranking.name, ranking.title, ranking.explanation, ranking.ranked_by, entries)
            for ranking, places_N, scores_N in zip(RANKINGS, order_KN, scores_KN, strict=True)
            if (entries := self._entries(places_N[: self._size], scores_N, numbers))
        ]
        by_norm_N = order_KN[0][:_COLUMNS_LIMIT]
        shown = dict.fromkeys(entry.id for board in boards for entry in board.entries)
        result = EpochBoards(
            epoch=epoch,
            step=step,
            seen=len(seen),
            id_source=" or ".join(seen.id_sources),
            boards=(*boards, *self._layer_boards()),
            columns=self._columns(by_norm_N, numbers),
            omitted=len(seen) - len(by_norm_N),
            last_layer=seen.last_layer,
            pushes={name: self._pushes[name] for name in shown if name in self._pushes},
            unknown=dict(seen.unknown),
        )
        self._begin()
        return result

    def state_dict(self) -> dict[str, Any]:
        """The running means as plain values; an epoch that is under way is not in it."""
        return {"means": self._means.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the running means that a checkpoint kept."""
        self._means.load_state_dict(state.get("means", {}))

    def _averaged(self, names: Sequence[SampleId] | None = None) -> FloatArray:
        """The numbers that have running means, shape (N, M)."""
        return np.stack([self._epoch.column(name, names) for name in _AVERAGED], axis=1)

    def _numbers(
        self, means_NM: FloatArray, names: Sequence[SampleId] | None = None
    ) -> dict[str, FloatArray]:
        """By name, the numbers of samples and their running means."""
        numbers = {
            name: self._epoch.column(name, names)
            for name in ("loss", "norm", "alignment", "class_alignment")
        }
        means = {f"mean_{name}": means_NM[:, place] for place, name in enumerate(_AVERAGED)}
        return numbers | means

    def _entries(
        self,
        places_N: npt.NDArray[np.intp],
        scores_N: FloatArray,
        numbers: Mapping[str, FloatArray],
    ) -> tuple[Entry, ...]:
        steps = self._epoch.column("step")

        def entry(rank: int, place: int) -> Entry:
            known: dict[str, Any] = {name: float(each[place]) for name, each in numbers.items()}
            return Entry(
                rank=rank,
                id=self._epoch.ids[place],
                label=self._epoch.labels[place],
                step=int(steps[place]),
                thing=self._things.get(self._epoch.ids[place]),
                **known,
            )

        ranked = enumerate(places_N.tolist(), 1)
        return tuple(entry(rank, place) for rank, place in ranked if not np.isnan(scores_N[place]))

    def _layer_boards(self) -> Iterator[Board]:
        for layer, leaders in self._layers.boards():
            entries = tuple(
                Entry(
                    rank=rank,
                    id=name,
                    layer=layer,
                    **self._epoch.about(name),
                    **leader._asdict(),
                )
                for rank, (name, leader) in enumerate(leaders, 1)
            )
            yield Board(
                name=f"largest_gradient/{layer}",
                title=f"Samples with the largest gradients in {layer}",
                explanation=f"‖g_i‖, the norm of the sample's own gradient over {layer} alone, "
                "largest first.",
                ranked_by="norm",
                entries=entries,
                layer=layer,
            )

    def _columns(
        self, places_N: npt.NDArray[np.intp], numbers: Mapping[str, FloatArray]
    ) -> SampleColumns:
        seen, places = self._epoch, places_N.tolist()
        return SampleColumns(
            ids=tuple(seen.ids[place] for place in places),
            labels=tuple(seen.labels[place] for place in places),
            losses=numbers["loss"][places_N],
            mean_losses=numbers["mean_loss"][places_N],
            norms=numbers["norm"][places_N],
            mean_norms=numbers["mean_norm"][places_N],
            alignments=numbers["alignment"][places_N],
            class_alignments=numbers["class_alignment"][places_N],
            mean_class_alignments=numbers["mean_class_alignment"][places_N],
            last_layer_norms=seen.column("last_layer_norm")[places_N],
            steps=tuple(seen.column("step")[places_N].tolist()),
        )

"""Bringing statistics together: over devices, onto the host, and over ranks.

Statistics of parameters are sums or maxima over a tensor's scalars, so parts combine before
anything is divided. Under DDP every rank holds the same averaged gradient and the same weights, so
each rank's statistics are already those of the global batch and rank zero alone computes them: no
collective, nothing that one rank could wait for. Of parameters that are split over ranks each
measures its own shards: :mod:`jacoscope.shard_gathering`. Samples are another matter:
:mod:`jacoscope.gathering`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from jacoscope.quantities import FloatArray, Measured

__all__ = ["HostStatistics", "Parcel", "Transfer"]


@dataclass(frozen=True)
class HostStatistics:
    """Statistics of a captured step, on the host.

    Args:
        values: By statistic, then by parameter.
        histograms: Counts by parameter, shape (N,).
    """

    values: dict[str, dict[str, float]] = field(default_factory=dict)
    histograms: dict[str, FloatArray] = field(default_factory=dict)
    _columns: dict[tuple[str, tuple[str, ...]], FloatArray | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def column(self, statistic: str, names: tuple[str, ...]) -> FloatArray | None:
        """A statistic of all of these parameters, which many quantities are made of.

        Args:
            statistic: Its name.
            names: The parameters' names.

        Returns:
            Shape (L,), which nobody may change; ``None`` if a parameter lacks it.
        """
        key = statistic, names
        if key not in self._columns:
            found = self.values.get(statistic, {})
            have_all = all(name in found for name in names)
            values = np.array([found[name] for name in names]) if have_all else None
            self._columns[key] = values
        return self._columns[key]

    def merge(self, other: HostStatistics) -> None:
        """Take over what ``other`` holds; each parameter's statistic is in one of the two only."""
        self._columns.clear()
        for name, values in other.values.items():
            self.values.setdefault(name, {}).update(values)
        self.histograms.update(other.histograms)


class Transfer:
    """Statistics on their way to the host: one copy per device, which nothing waits for.

    Args:
        measured: All that a captured step measured, on any number of devices.

    Attributes:
        awaits_others: Whether other processes have still to send their parts.
    """

    awaits_others = False

    def __init__(self, measured: Sequence[Measured]) -> None:
        groups: dict[torch.device, list[Measured]] = {}
        for part in measured:
            groups.setdefault(part.device, []).append(part)
        self._shipments = [_Shipment(parts) for parts in groups.values()]

    @property
    def is_done(self) -> bool:
        """Whether :meth:`result` would not have to wait."""
        return all(shipment.is_done for shipment in self._shipments)

    def result(self) -> HostStatistics:
        """The statistics, waiting for the device if need be."""
        merged = HostStatistics()
        for shipment in self._shipments:
            merged.merge(shipment.unpack())
        return merged


class _Shipment:
    """What one device sends: every number of the captured step in one flat tensor."""

    def __init__(self, parts: Sequence[Measured]) -> None:
        self._contents = [(part.names, tuple(part.values_L)) for part in parts]
        self._bins = [
            part.histogram_LN.shape[1] if part.histogram_LN is not None else 0 for part in parts
        ]
        self._crossing = _Crossing(torch.cat([_flat(part) for part in parts]))

    @property
    def is_done(self) -> bool:
        return self._crossing.is_done

    def unpack(self) -> HostStatistics:
        """The statistics that were sent, waiting for the device if need be."""
        numbers = self._crossing.wait()
        result = HostStatistics()
        position = 0
        for (names, statistics), bins in zip(self._contents, self._bins, strict=True):
            for statistic in statistics:
                values = numbers[position : position + len(names)]
                position += len(names)
                column = result.values.setdefault(statistic, {})
                column.update(zip(names, values.tolist(), strict=True))
            for name in names if bins else ():
                result.histograms[name] = numbers[position : position + bins]
                position += bins
        assert position == len(numbers)
        return result


def _flat(part: Measured) -> Tensor:
    pieces = [*part.values_L.values()]
    if part.histogram_LN is not None:
        pieces.append(part.histogram_LN.flatten())
    return torch.cat(pieces)


class Parcel:
    """Named tensors on their way to the host: one copy per device, which nothing waits for.

    Args:
        tensors: By name, tensors of any shape and number type.
    """

    def __init__(self, tensors: Mapping[Hashable, Tensor]) -> None:
        groups: dict[torch.device, dict[Hashable, Tensor]] = {}
        for name, tensor in tensors.items():
            groups.setdefault(tensor.device, {})[name] = tensor.detach()
        self._boxes = [_Box(each) for each in groups.values()]

    @property
    def is_done(self) -> bool:
        """Whether :meth:`unpack` would not have to wait."""
        return all(box.crossing.is_done for box in self._boxes)

    def unpack(self) -> dict[Hashable, FloatArray]:
        """The tensors' values in their shapes, waiting for the device if need be."""
        return {name: array for box in self._boxes for name, array in box.unpack().items()}


class _Box:
    """What one device sends of a parcel: all its tensors in one flat one."""

    def __init__(self, tensors: Mapping[Hashable, Tensor]) -> None:
        self._shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        single = all(t.dtype.itemsize <= 4 and t.is_floating_point() for t in tensors.values())
        dtype = torch.float32 if single else torch.float64
        flat = torch.cat([tensor.reshape(-1).to(dtype) for tensor in tensors.values()])
        self.crossing = _Crossing(flat)

    def unpack(self) -> dict[Hashable, FloatArray]:
        """The tensors that were sent, in their shapes."""
        numbers = self.crossing.wait()
        found: dict[Hashable, FloatArray] = {}
        position = 0
        for name, shape in self._shapes.items():
            size = math.prod(shape)
            found[name] = numbers[position : position + size].reshape(shape)
            position += size
        return found


class _Crossing:
    """A flat tensor's copy to the host."""

    def __init__(self, flat: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if flat.device.type == "cuda":
            self._host = torch.empty(flat.shape, dtype=flat.dtype, device="cpu", pin_memory=True)
            self._host.copy_(flat, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(flat.device))
        else:
            self._host = flat.cpu()

    @property
    def is_done(self) -> bool:
        """Whether the copy has arrived."""
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> FloatArray:
        """The values, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy().astype(np.float64)

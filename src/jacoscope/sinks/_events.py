"""TensorBoard's values, and events of many.

Torch's ``SummaryWriter.add_tensor`` sets no data class, and without one TensorBoard's fast loader
drops tensors, so those that a plugin reads are built here. Its ``add_scalar`` and its like make an
event of each value, of which it lets ten wait and then stops the training until the file has caught
up.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_TENSOR,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_FLOAT, DT_STRING

from jacoscope.packed_text import pack_text
from jacoscope.schema import PLUGIN_NAME

__all__ = [
    "EventWriter",
    "add_values",
    "histogram_value",
    "scalar_value",
    "tensor_value",
    "text_panel",
    "text_value",
]

_CELLS = 256
"""Parts of a histogram's range that are told apart; TensorBoard draws 30 of them."""
_TYPES = {np.dtype(np.float32): DT_FLOAT, np.dtype(np.float64): DT_DOUBLE}


class EventWriter(Protocol):
    """The part of ``torch.utils.tensorboard.SummaryWriter`` that raw events need."""

    def _get_file_writer(self) -> Any: ...


def tensor_value(tag: str, array: npt.NDArray[Any], content: bytes | None = None) -> Any:
    """A summary value holding a float32 or float64 array.

    Args:
        tag: Its tag.
        array: The array, any shape.
        content: The plugin's metadata; readers keep that of a tag's first event only, so later
            ones can leave it out.
    """
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in array.shape])
    tensor = TensorProto(
        dtype=_TYPES[array.dtype],
        tensor_shape=shape,
        tensor_content=np.ascontiguousarray(array).tobytes(),
    )
    return Summary.Value(tag=tag, tensor=tensor, metadata=_metadata(content))


def text_value(tag: str, text: str, content: bytes | None = None) -> Any:
    """A summary value holding a text; see :func:`tensor_value`."""
    tensor = TensorProto(
        dtype=DT_STRING, tensor_shape=TensorShapeProto(), string_val=[pack_text(text)]
    )
    return Summary.Value(tag=tag, tensor=tensor, metadata=_metadata(content))


def scalar_value(tag: str, value: float) -> Any:
    """A value of the Scalars tab."""
    return Summary.Value(tag=tag, simple_value=value)


def text_panel(tag: str, text: str) -> Any:
    """A text of the Text tab, in Markdown."""
    from torch.utils.tensorboard.summary import text as summary

    return summary(tag, text).value[0]  # type: ignore[no-untyped-call]


def histogram_value(
    tag: str, edges: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]
) -> Any:
    """A value of the Histograms tab.

    Args:
        tag: Its tag.
        edges: Edges of the bins, one more than there are bins.
        counts: How much is in each bin; at least one is not empty.
    """
    from torch.utils.tensorboard.summary import histogram_raw

    filled = np.flatnonzero(counts > 0)
    first, last = int(filled[0]), int(filled[-1]) + 1
    edges, counts = edges[first : last + 1], counts[first:last]
    centres = (edges[:-1] + edges[1:]) / 2
    total, sum_of_squares = float(counts @ centres), float(counts @ centres**2)
    edges, counts = _merged(edges, counts)
    # TensorBoard takes right edges and starts the first bin at the smallest number, so an empty bin
    # in front keeps the first one from being stretched.
    summary = histogram_raw(  # type: ignore[no-untyped-call]
        tag,
        min=float(edges[0]),
        max=float(edges[-1]),
        num=float(counts.sum()),
        sum=total,
        sum_squares=sum_of_squares,
        bucket_limits=edges.tolist(),
        bucket_counts=[0.0, *counts.tolist()],
    )
    return summary.value[0]


def _merged(
    edges: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Bins with those put together that no chart tells apart; the record has all of them."""
    cells = np.floor((edges[:-1] - edges[0]) * (_CELLS / (edges[-1] - edges[0])))
    first = np.unique(cells, return_index=True)[1]
    return np.append(edges[first], edges[-1]), np.add.reduceat(counts, first)


def add_values(writer: EventWriter, values: list[Any], step: int) -> None:
    """Write values as one event."""
    # There is no public way to write a summary of one's own through torch's SummaryWriter, and a
    # second event file beside the logger's would not be read while the first still grows.
    writer._get_file_writer().add_summary(Summary(value=values), step)


def _metadata(content: bytes | None) -> Any:
    if content is None:
        return None
    metadata = SummaryMetadata(data_class=DATA_CLASS_TENSOR)
    metadata.plugin_data.plugin_name = PLUGIN_NAME
    metadata.plugin_data.content = content
    return metadata

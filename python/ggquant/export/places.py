"""Where the rows of a model's GGUF tensors lie in the tensors of the checkpoint that it is read from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggquant.checkpoint_index import StoredTensor
from ggquant.errors import UnsupportedError
from ggquant.model import SourceTensor, View

_UNDONE = {"add", "mul"}


@dataclass(frozen=True, slots=True)
class Place:
    """Rows of a GGUF tensor that are rows of a checkpoint's tensor.

    Attributes:
        source: the GGUF tensor, as made from the checkpoint.
        first: the first of its rows; rows of all experts are counted through.
        stored: the checkpoint's tensor.
        rows: its row for each.
    """

    source: SourceTensor
    first: int
    stored: StoredTensor
    rows: npt.NDArray[np.int64]


def places(tensor: SourceTensor, stored: Mapping[tuple[str, int], StoredTensor]) -> Iterator[Place]:
    """Where the rows of a GGUF tensor lie.

    Args:
        tensor: as `ggquant.sources.load_model` gives it for a checkpoint.
        stored: the checkpoint's tensors by file and offset.

    Raises:
        UnsupportedError: it is not made of whole rows, or was computed.
    """
    first = 0
    for view in tensor.views:
        target = stored[view.file, view.offset]
        rows = _rows(view, target, tensor)
        yield Place(tensor, first, target, rows)
        first += len(rows)


def by_place(stored: Mapping[str, StoredTensor]) -> dict[tuple[str, int], StoredTensor]:
    """A checkpoint's tensors by file and offset."""
    return {(tensor.file, tensor.offset): tensor for tensor in stored.values()}


def _rows(view: View, target: StoredTensor, tensor: SourceTensor) -> npt.NDArray[np.int64]:
    """The checkpoint's row of each row that a view walks."""
    columns = target.shape[-1] if len(target.shape) > 1 else 1
    dims, inner = list(zip(view.shape, view.strides, strict=True)), 1
    while inner < columns and dims:
        size, stride = dims.pop()
        if size != 1 and stride != inner:
            break
        inner *= size
    if inner != columns or any(op not in _UNDONE for op, _ in tensor.ops):
        raise UnsupportedError(
            f"tensor {tensor.name} was changed by the conversion in a way that cannot be undone", tensor=tensor.name
        )
    rows = np.full(1, view.start, np.int64)
    for size, stride in dims:
        rows = (rows[:, None] + np.arange(size) * stride).reshape(-1)
    return rows // columns

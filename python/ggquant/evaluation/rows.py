"""The weights of a tensor a few rows at a time, so that memory does not grow with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

import numpy as np
import numpy.typing as npt

from ggquant.model import SourceTensor, View
from ggquant.registry import format_info
from ggquant.runtime.weights import as_float32, read_tensor

#: Weights in memory at once, as far as whole rows allow.
_WEIGHTS = 1 << 22

#: Rows that stay together where there are many: permuted heads are cut between heads.
_ROWS = 256

_PLAIN = {"F32", "F16", "BF16", "F64", "U8", "F8_E4M3", "F8_E5M2"}


def row_chunks(tensor: SourceTensor, threads: int | None = None) -> Iterator[npt.NDArray[np.float32]]:
    """The tensor's values as float32 [rows, K], in order. Tensors of the same shape are cut at the same places.

    Raises:
        FileError, MalformedFileError, UnsupportedError: the tensor cannot be read, see `ggquant.runtime`.
    """
    columns = tensor.shape[-1]
    rows = prod(tensor.shape[:-1])
    step = max(1, _WEIGHTS // max(columns, 1))
    step -= step % _ROWS if step > _ROWS else 0
    whole: npt.NDArray[np.float32] | None = None
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        part = _part(tensor, start, stop)
        if part is not None:
            yield as_float32(read_tensor(part), threads).reshape(-1, columns)
            continue
        if whole is None:  # what cannot be cut is small, or put together from all of its parts
            whole = as_float32(read_tensor(tensor), threads).reshape(-1, columns)
        yield whole[start:stop]


def _part(tensor: SourceTensor, start: int, stop: int) -> SourceTensor | None:
    """Rows `start` to `stop`, where they are whole items along the first axes of the tensor's views."""
    if tensor.inline is not None or any(name == "mxfp4_repack" for name, _ in tensor.ops):
        return None
    columns = tensor.shape[-1]
    views, at = [], 0
    for view in tensor.views:
        count = view.elements // columns
        first, last = max(start, at), min(stop, at + count)
        if first < last:
            cut = _cut(view, first - at, last - at, columns)
            if cut is None:
                return None
            views.append(cut)
        at += count
    return replace(tensor, shape=(stop - start, columns), views=tuple(views))


def _cut(view: View, first: int, last: int, columns: int) -> View | None:
    """Some rows of a view."""
    if first == 0 and last * columns == view.elements:
        return view
    if view.dtype not in _PLAIN:
        row_bytes = format_info(view.dtype).row_bytes(columns)
        if row_bytes is None or view.start:
            return None
        return replace(
            view, offset=view.offset + first * row_bytes, shape=(last - first, columns), strides=(columns, 1)
        )
    # An expert of a stack is a view with one item along its first axis.
    axis = next((n for n, length in enumerate(view.shape) if length > 1), 0)
    shape, strides = view.shape[axis:], view.strides[axis:]
    inner = prod(shape[1:])
    if inner and first * columns % inner == 0 and last * columns % inner == 0:
        begin, end = first * columns // inner, last * columns // inner
        return replace(view, shape=(end - begin, *shape[1:]), strides=strides, start=view.start + begin * strides[0])
    return None

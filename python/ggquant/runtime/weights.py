"""Tensors of a model as arrays: read when asked for, as they are stored."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ggquant.errors import FileError, MalformedFileError, UnsupportedError
from ggquant.model import Factors, SourceTensor, View
from ggquant.native_plan import packed_values
from ggquant.registry import format_info
from ggquant.sources import contiguous_strides
from ggquant.tensor import QuantizedTensor

Array: TypeAlias = npt.NDArray[Any]

_FLOATS: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F64": np.dtype("<f8"),
    "U8": np.dtype("u1"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}

#: Bytes between two wanted rows that are quicker read than skipped, and bytes read at once.
_GAP, _PIECE = 1 << 16, 1 << 24


def read_tensor(tensor: SourceTensor) -> Array | QuantizedTensor:
    """The whole tensor: float32, float16 or bfloat16 in `tensor.shape`, or blocks.

    Raises:
        FileError, MalformedFileError: the file cannot be read, or has become shorter.
        UnsupportedError: a stored type that weights do not have.
    """
    if tensor.factors is not None:
        return _multiplied(as_float32(read_tensor(replace(tensor, factors=None))), tensor.factors)
    if tensor.inline is not None:
        return np.frombuffer(tensor.inline, _float(tensor.dtype, tensor)).reshape(tensor.shape)
    if tensor.ops and tensor.ops[0][0] == "mxfp4_repack":
        return _repacked(tensor)
    if any(view.packed is not None for view in tensor.views):
        values = np.concatenate([packed_values(view, None) for view in tensor.views])
        return (_apply(values, tensor) if tensor.ops else values).reshape(tensor.shape)
    if _is_blocks(tensor.views[0].dtype):
        parts = [_blocks(view, tensor) for view in tensor.views]
        return QuantizedTensor(np.concatenate(parts) if len(parts) > 1 else parts[0], tensor.dtype, tensor.shape)
    kind = _float(tensor.dtype, tensor)
    out = np.empty(tensor.elements, kind)
    at = 0
    for view in tensor.views:
        values = _walk(view, tensor)
        if tensor.ops:
            values = _apply(values.astype(np.float32), tensor)
        out[at : at + view.elements] = values.reshape(-1)
        at += view.elements
    return out.reshape(tensor.shape)


def read_rows(tensor: SourceTensor, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Some rows of a matrix as float32, in the order asked for, without reading the others.

    Raises:
        FileError, MalformedFileError, UnsupportedError: as for `read_tensor`.
    """
    columns = tensor.shape[-1]
    view = tensor.views[0] if len(tensor.views) == 1 else None
    packed = view is not None and view.packed is not None
    if (
        view is None
        or packed
        or tensor.ops
        or tensor.factors
        or view.strides[-2:] != (columns, 1)
        or len(view.shape) != 2
    ):
        return as_float32(read_tensor(tensor))[rows]
    blocks = _is_blocks(view.dtype)
    row_bytes = format_info(view.dtype).row_bytes(columns) if blocks else columns * _float(view.dtype, tensor).itemsize
    if row_bytes is None:
        raise MalformedFileError(f"{view.file}: rows of '{tensor.name}' are no whole blocks", file=view.file)
    wanted, inverse = np.unique(rows, return_inverse=True)
    data = np.empty((len(wanted), row_bytes), np.uint8)
    start = view.offset + view.start // columns * row_bytes
    at = 0
    with _open(view.file) as file:
        for run in _runs(wanted, row_bytes):
            read = np.empty((run[-1] + 1 - run[0], row_bytes), np.uint8)
            _read_into(file, read.reshape(-1), start + int(run[0]) * row_bytes, view.file, tensor)
            data[at : at + len(run)] = read[run - run[0]]
            at += len(run)
    shape = (len(wanted), columns)
    stored = QuantizedTensor(data, view.dtype, shape) if blocks else data.view(_float(view.dtype, tensor))
    return as_float32(stored)[inverse.reshape(-1)]


def _runs(rows: npt.NDArray[np.int64], row_bytes: int) -> list[npt.NDArray[np.int64]]:
    """Rising numbers of rows in groups that are read at once, with what lies between them."""
    apart = np.diff(rows) * row_bytes > max(_GAP, row_bytes)
    pieces = rows * row_bytes // _PIECE
    ends = np.flatnonzero(apart | (np.diff(pieces) != 0)) + 1
    return np.split(rows, ends) if len(rows) else []


def as_float32(weight: Array | QuantizedTensor, threads: int | None = None) -> npt.NDArray[np.float32]:
    """The values of a weight as float32."""
    if isinstance(weight, QuantizedTensor):
        return weight.dequantize(threads=threads)
    return np.ascontiguousarray(weight, dtype=np.float32)


def _is_blocks(dtype: str) -> bool:
    return dtype not in _FLOATS


def _float(dtype: str, tensor: SourceTensor) -> np.dtype[Any]:
    if dtype not in _FLOATS:
        raise UnsupportedError(f"tensor '{tensor.name}' is stored as {dtype}, which cannot be run", tensor=tensor.name)
    return _FLOATS[dtype]


def _walk(view: View, tensor: SourceTensor) -> Array:
    """The elements of a view, read from its first to its last."""
    kind = _float(view.dtype, tensor)
    low = view.start + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True) if s < 0)
    high = view.start + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True) if s > 0)
    data = np.empty(high - low + 1, kind)
    with _open(view.file) as file:
        _read_into(file, data.view(np.uint8), view.offset + low * kind.itemsize, view.file, tensor)
    if view.strides == contiguous_strides(view.shape):
        return data
    strides = [s * kind.itemsize for s in view.strides]
    return np.lib.stride_tricks.as_strided(data[view.start - low :], view.shape, strides, writeable=False)


def _blocks(view: View, tensor: SourceTensor) -> npt.NDArray[np.uint8]:
    if view.strides != contiguous_strides(view.shape) or view.start:
        raise UnsupportedError(f"tensor '{tensor.name}': blocks cannot be taken apart", tensor=tensor.name)
    info = format_info(view.dtype)
    data = np.empty(view.elements // info.block_len * info.block_bytes, np.uint8)
    with _open(view.file) as file:
        _read_into(file, data, view.offset, view.file, tensor)
    return data


def _apply(values: npt.NDArray[np.float32], tensor: SourceTensor) -> npt.NDArray[np.float32]:
    for name, constant in tensor.ops:
        if name == "add":
            values = values + np.float32(constant)
        elif name == "mul":
            values = values * np.float32(constant)
        else:
            values = -np.exp(values)
    return values


def _multiplied(values: npt.NDArray[np.float32], factors: Factors) -> npt.NDArray[np.float32]:
    if factors.rows is not None:
        values = values * np.frombuffer(factors.rows, "<f4").reshape(*values.shape[:-1], 1)
    if factors.columns is not None:
        columns = np.frombuffer(factors.columns, "<f4").reshape(-1, values.shape[-1])
        values = values * (columns[:, None] if len(columns) > 1 else columns)
    return values


def _repacked(tensor: SourceTensor) -> QuantizedTensor:
    """MXFP4 blocks from codes in pairs of neighbours, and scales."""
    codes, scales = (np.ascontiguousarray(_walk(view, tensor)).reshape(-1) for view in tensor.views)
    elements = np.empty((len(codes) // 16, 32), np.uint8)
    elements[:, 0::2], elements[:, 1::2] = codes.reshape(-1, 16) & 15, codes.reshape(-1, 16) >> 4
    packed = elements[:, :16] | elements[:, 16:] << 4
    return QuantizedTensor(np.concatenate([scales.reshape(-1, 1), packed], axis=1), "MXFP4", tensor.shape)


def _open(path: str) -> Any:
    try:
        return Path(path).open("rb", buffering=0)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}", file=path, errno=error.errno) from error


def _read_into(file: Any, out: npt.NDArray[np.uint8], offset: int, path: str, tensor: SourceTensor) -> None:
    left = memoryview(out.data)
    while left:
        try:
            count = os.preadv(file.fileno(), [left[: 1 << 30]], offset)
        except OSError as error:
            raise FileError(
                f"{path}: tensor '{tensor.name}': {error.strerror}", file=path, tensor=tensor.name
            ) from error
        if count == 0:
            raise MalformedFileError(
                f"{path}: tensor '{tensor.name}' ends beyond the end of the file", file=path, tensor=tensor.name
            )
        left, offset = left[count:], offset + count

"""The parts of packed matrices in a checkpoint: viewed from either side, looked into where they are small."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggquant.checkpoint_index import StoredTensor
from ggquant.errors import CheckpointError, FileError
from ggquant.model import View

#: Elements looked at at once.
_PIECE = 1 << 22

_DTYPES = {"I32": "<i4", "I64": "<i8", "F16": "<u2", "BF16": "<u2", "F32": "<f4", "I8": "i1"}


def rows_view(tensor: StoredTensor, shape: tuple[int, int] | None = None) -> View:
    """A stored tensor as a matrix that begins with its first axis."""
    rows, columns = shape or (tensor.shape[0], prod(tensor.shape[1:]))
    return View(tensor.file, tensor.offset, tensor.dtype, (rows, columns), (columns, 1))


def columns_view(tensor: StoredTensor) -> View:
    """A stored matrix with its axes exchanged."""
    rows, columns = tensor.shape
    return View(tensor.file, tensor.offset, tensor.dtype, (columns, rows), (1, columns))


def line_view(tensor: StoredTensor) -> View:
    """A stored vector."""
    return View(tensor.file, tensor.offset, tensor.dtype, tensor.shape, (1,))


def values(tensor: StoredTensor, start: int = 0, count: int | None = None) -> npt.NDArray[np.generic]:
    """Elements of a stored tensor, flat; 16-bit floats come as their bits.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: it ends too early.
    """
    dtype = np.dtype(_DTYPES[tensor.dtype])
    count = prod(tensor.shape) - start if count is None else count
    try:
        found = np.fromfile(tensor.file, dtype, count, offset=tensor.offset + start * dtype.itemsize)
    except OSError as error:
        raise FileError(f"{tensor.file}: {error.strerror}", file=tensor.file, errno=error.errno) from error
    if found.size != count:
        raise wrong(tensor, "its data are cut short")
    return found


def uniform_field(tensor: StoredTensor, bits: int, fields: int) -> int | None:
    """The code that all fields of a matrix of packed codes hold, if they are all alike.

    Args:
        tensor: `[lines, words]` of I32, codes back to back in each line.
        bits: of a code.
        fields: codes in a line; bits after them do not count.
    """
    lines, words = tensor.shape
    if not lines or not words:
        return None
    field = int(values(tensor, 0, 1).astype(np.uint32)[0]) & (1 << bits) - 1
    pattern = sum(field << bits * i for i in range(32)).to_bytes(4 * bits, "little")
    line = np.resize(np.frombuffer(pattern, "<u4"), words).copy()
    mask = np.full(words, 0xFFFFFFFF, np.uint32)
    if rest := 32 * words - bits * fields:
        mask[-1] = 0xFFFFFFFF >> rest if rest < 32 else 0
    line &= mask
    step = max(1, _PIECE // words)
    for first in range(0, lines, step):
        count = min(step, lines - first)
        found = values(tensor, first * words, count * words).view(np.uint32).reshape(count, words)
        if not (found & mask == line).all():
            return None
    return field


def group_list(tensor: StoredTensor, columns: int, groups: int, group_len: int) -> bool:
    """Whether a list of groups says more than that neighbours form groups of `group_len`.

    Raises:
        CheckpointError: it has the wrong length, or names groups that are not there.
    """
    if tensor.dtype != "I32" or tensor.shape != (columns,):
        raise wrong(tensor, f"it lists the groups of {tensor.shape} inputs, where there are {columns}")
    listed = values(tensor)
    if (listed == -1).all():
        return False  # compressed-tensors: never filled in
    if listed.size and not 0 <= int(listed.min()) <= int(listed.max()) < groups:
        raise wrong(tensor, f"it names groups {listed.min()} to {listed.max()}, where there are {groups}")
    return not np.array_equal(listed, np.arange(columns) // group_len)


def wrong(tensor: StoredTensor, reason: str) -> CheckpointError:
    """The error for a tensor that cannot be what it should be."""
    return CheckpointError(f"{tensor.file}: tensor {tensor.name}: {reason}", file=tensor.file, tensor=tensor.name)


def within(path: Path, module: str, reason: str) -> CheckpointError:
    """The error for a module whose parts do not fit together."""
    return CheckpointError(f"{path}: module {module}: {reason}", file=str(path), tensor=module)

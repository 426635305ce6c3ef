"""The weights of a GGUF file under the names, and in the order of rows, of the checkpoint that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.checkpoint_index import StoredTensor
from ggquant.errors import CheckpointError
from ggquant.export.layouts import Codes
from ggquant.export.places import by_place, places
from ggquant.export.scheme import Scheme
from ggquant.gguf import GGUFFile, Tensor
from ggquant.sources import load_model

#: Zero point and width of the codes of symmetric blocks; width of those with a minimum.
_SYMMETRIC = {"Q4_0": (8, 4), "Q5_0": (16, 5), "Q8_0": (128, 8)}
_WITH_MINIMUM = {"Q4_1": 4, "Q5_1": 5}

_BLOCK = 32


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows of a GGUF tensor that become rows of a checkpoint's tensor.

    Attributes:
        tensor: the GGUF tensor.
        first: the first of its rows.
        rows: the checkpoint's row of each.
        ops: what the converter did to the values, to be undone.
    """

    tensor: Tensor
    first: int
    rows: npt.NDArray[np.int64]
    ops: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """A tensor of the checkpoint as segments of GGUF tensors."""

    name: str
    shape: tuple[int, ...]
    segments: tuple[Segment, ...]

    @property
    def is_quantized(self) -> bool:
        """Whether there is reason to ask for codes."""
        return any(segment.tensor.format not in ("F32", "F16", "BF16") for segment in self.segments)

    def values(self, first: int, last: int, threads: int | None) -> npt.NDArray[np.float32]:
        """Rows `first..last` as float32; of a vector, its elements."""
        columns = self.shape[-1] if len(self.shape) > 1 else 1
        out = np.empty((last - first, columns), np.float32)
        for segment in self.segments:
            inside = np.flatnonzero((segment.rows >= first) & (segment.rows < last))
            if not inside.size:
                continue
            low, high = int(inside[0]), int(inside[-1]) + 1
            if len(self.shape) == 1:
                values = segment.tensor.dequantize(threads=threads).reshape(-1, 1)[segment.first :][low:high]
            else:
                start = segment.first + low
                values = segment.tensor.rows(start, segment.first + high).dequantize(threads=threads)
            for op, constant in reversed(segment.ops):
                values = values - np.float32(constant) if op == "add" else values / np.float32(constant)
            out[segment.rows[inside] - first] = values[inside - low]
        return out

    def codes(self, threads: int | None, scheme: Scheme | None = None) -> tuple[Scheme, Codes] | None:
        """The codes of the blocks, where all are of one format and their minima are multiples of their scales."""
        formats = {segment.tensor.format for segment in self.segments}
        format = next(iter(formats))
        if len(self.shape) != 2 or len(formats) > 1 or format not in (*_SYMMETRIC, *_WITH_MINIMUM):
            return None
        if any(segment.ops for segment in self.segments):
            return None
        rows, columns = self.shape
        groups = columns // _BLOCK
        codes = np.empty((rows, columns), np.uint8)
        scales, minima = np.empty((rows, groups), np.float32), np.empty((rows, groups), np.float32)
        for segment in self.segments:
            data = segment.tensor.rows(segment.first, segment.first + len(segment.rows)).data
            q, d, m = _native.block_codes(format, np.ascontiguousarray(data).reshape(-1), threads)
            codes[segment.rows] = q.reshape(-1, columns)
            scales[segment.rows], minima[segment.rows] = d.reshape(-1, groups), m.reshape(-1, groups)
        if format in _SYMMETRIC:
            zero, bits = _SYMMETRIC[format]
            made = Codes(codes, scales, np.full((rows, groups), zero, np.uint8))
        else:
            bits = _WITH_MINIMUM[format]
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                zeros = np.nan_to_num(np.round(-minima / scales), nan=0.0, posinf=-1.0, neginf=-1.0)
                exact = (zeros >= 0) & (zeros < 1 << bits) & ((-zeros * scales).astype(np.float16) == minima)
            if not exact.all():
                return None
            made = Codes(codes, scales, zeros.astype(np.uint8))
        if scheme is not None:
            found = _narrowed(made, scheme)
            joined = None if found is None else _joined(found, scheme.group_len(columns))
            return None if joined is None else (scheme, joined)
        return _largest_groups(made, bits, format in _SYMMETRIC)


def _narrowed(blocks: Codes, scheme: Scheme) -> Codes | None:
    """The same weights as codes of a scheme's width and symmetry, if they are such."""
    top = (1 << scheme.bits) - 1
    middle = 1 << scheme.bits - 1
    codes, zeros = blocks.codes, blocks.zeros
    if not scheme.symmetric and codes.max() <= top and zeros.max() <= top:
        return blocks
    wide = codes.astype(np.int16) - np.repeat(zeros, _BLOCK, axis=1) + middle
    if wide.min() < 0 or wide.max() > top:
        return None
    return Codes(wide.astype(np.uint8), blocks.scales, np.full_like(zeros, middle))


def _joined(blocks: Codes, group_len: int) -> Codes | None:
    """Blocks as groups of `group_len` inputs, the last of a row maybe shorter, if they may have been cut from them."""
    width, rest = divmod(group_len, _BLOCK)
    if rest:
        return None
    scales, zeros = blocks.scales[:, ::width], blocks.zeros[:, ::width]
    group = np.arange(blocks.scales.shape[1]) // width
    if not (np.array_equal(scales[:, group], blocks.scales) and np.array_equal(zeros[:, group], blocks.zeros)):
        return None
    return Codes(blocks.codes, np.ascontiguousarray(scales), np.ascontiguousarray(zeros))


def _largest_groups(blocks: Codes, bits: int, symmetric: bool) -> tuple[Scheme, Codes]:
    """Blocks as the largest groups that they may have been cut from: neighbours with the same scales throughout."""
    columns = blocks.codes.shape[1]
    whole = [(-1, columns)] + [(size, size) for size in (128, 64) if size < columns and columns % size == 0]
    cut = [(size, size) for size in (128, 64) if size < columns and columns % size]
    for size, length in [*whole, *cut]:
        made = _joined(blocks, length)
        if made is not None:
            return Scheme(bits, size, symmetric), made
    return Scheme(bits, _BLOCK, symmetric), blocks


def block_weights(source: Path, like: Path, stored: Mapping[str, StoredTensor]) -> dict[str, BlockWeights]:
    """The tensors of a checkpoint, with the values of a GGUF file of the same model.

    Args:
        source: the GGUF file.
        like: the checkpoint's folder.
        stored: the checkpoint's tensors.

    Raises:
        CheckpointError: the two are not of the same model.
        UnsupportedError: a tensor that was changed in a way that cannot be undone.
    """
    file, model = GGUFFile(source), load_model(like)
    known = by_place(stored)
    segments: dict[str, list[Segment]] = {}
    for tensor in model.tensors:
        found = file.tensors.get(tensor.name)
        if tensor.inline is not None:
            continue
        if found is None or prod(found.shape) != tensor.elements or found.shape[-1] != tensor.shape[-1]:
            have = "is missing" if found is None else f"has shape {found.shape}"
            raise CheckpointError(
                f"{source}: tensor {tensor.name} {have}, and {like} needs {tensor.shape}", tensor=tensor.name
            )
        for place in places(tensor, known):
            segments.setdefault(place.stored.name, []).append(Segment(found, place.first, place.rows, tensor.ops))
    made = {}
    for name, parts in segments.items():
        shape = stored[name].shape
        covered = np.sort(np.concatenate([part.rows for part in parts]))
        count = shape[0] if len(shape) == 1 else prod(shape[:-1])
        if not np.array_equal(covered, np.arange(count)):
            raise CheckpointError(f"{source}: only some rows of {name} are in the file", tensor=name)
        made[name] = BlockWeights(name, shape, tuple(parts))
    return made

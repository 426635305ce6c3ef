"""Which block formats can take packed weights as they are: the same codes, the same scales.

Q4_0, Q5_0 and Q8_0 are symmetric groups of 32 with an f16 scale, Q4_1 and Q5_1 have an f16 minimum besides: what a
group of packed weights is, where groups are multiples of 32 neighbours. Encoding the values anew would not find the
codes again: the encoders fix a scale by the extreme weight of each block.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from ggquant.errors import FileError
from ggquant.model import PackedMatrix, SourceTensor

#: Range of `code - zero` of the symmetric formats.
_SYMMETRIC = {"Q4_0": (-8, 7), "Q5_0": (-16, 15), "Q8_0": (-128, 127)}

#: Largest code of those with a minimum.
_WITH_MINIMUM = {"Q4_1": 15, "Q5_1": 31}

#: Formats that can take codes as they are.
TARGETS = (*_SYMMETRIC, *_WITH_MINIMUM)

#: Formats whose values are recognised in full-precision weights.
ON_GRID = (*TARGETS, "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")

_BLOCK = 32
_PIECE = 1 << 22


@dataclass(frozen=True, slots=True)
class Transcoding:
    """What becomes of packed weights in a block format.

    Attributes:
        kind: "exact": the same codes and scales. "exact but for the minimum": the same codes and scales, and minima
            `-zero * scale` rounded to f16. "re-quantized": the values are encoded anew.
        reason: why it is not exact, or "".
    """

    kind: Literal["exact", "exact but for the minimum", "re-quantized"]
    reason: str = ""

    @property
    def keeps_codes(self) -> bool:
        """Whether codes and scales go over as they are."""
        return self.kind != "re-quantized"

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


def transcoding(tensor: SourceTensor, format: str, *, encode: bool = False, scattered: str = "") -> Transcoding | None:
    """What becomes of a tensor in a block format; None if it is not made of packed weights.

    Looks into the scales where they are no f16 numbers. With `encode`, values are to be encoded anew whatever they are.
    `scattered` says why inputs in act-order cannot change places.

    Raises:
        FileError: a file cannot be read.
    """
    parts = [view.packed for view in tensor.views if view.packed is not None]
    if not parts or len(parts) != len(tensor.views):
        return None
    if encode:
        return Transcoding("re-quantized", "the ordinary encoder is asked for")
    if format not in TARGETS:
        return Transcoding("re-quantized", f"{format} is no format of codes and scales like theirs")
    if tensor.ops:
        return Transcoding("re-quantized", "the model changes these weights")
    rounded = False
    for part in parts:
        reason = _obstacle(part, format, scattered)
        if reason:
            return Transcoding("re-quantized", reason)
        rounded = rounded or _rounds_minimum(part, format)
    if not all(_fit_half(part) for part in parts):
        return Transcoding("re-quantized", "the scales are no f16 numbers")
    if rounded:
        return Transcoding("exact but for the minimum", "minima are rounded to f16, by at most 1 part in 2048")
    return Transcoding("exact")


def _obstacle(part: PackedMatrix, format: str, scattered: str) -> str:
    if part.coding == "float":
        return "the codes are 8-bit floats"
    if part.listed is not None and part.column_order is None:
        return f"groups are not made of neighbours (act-order), {scattered or 'and nothing can put them together'}"
    if part.column_order is None and part.group_len % _BLOCK:
        return f"groups of {part.group_len} are no multiple of {_BLOCK}"
    top = (1 << part.bits) - 1
    if format in _WITH_MINIMUM:
        return "" if top <= _WITH_MINIMUM[format] else f"{format} has no {part.bits}-bit codes"
    low, high = _SYMMETRIC[format]
    if part.zero is not None:
        fits = low <= -part.zero and top - part.zero <= high
        return "" if fits else f"{part.bits}-bit codes around {part.zero} are out of the range of {format}"
    if low <= -top - 1 and top <= high:
        return ""
    return f"groups have zero points of their own, which {format} lacks"


def _rounds_minimum(part: PackedMatrix, format: str) -> bool:
    """Whether `zero * scale` may need more bits than a scale has."""
    power_of_two = part.zero is not None and part.zero & (part.zero - 1) == 0
    return format in _WITH_MINIMUM and not power_of_two


def _fit_half(part: PackedMatrix) -> bool:
    """Whether all scales are f16 numbers."""
    scales = part.scales
    if scales.dtype == "F16":
        return True
    wide = np.dtype("<u2" if scales.dtype == "BF16" else "<u4")
    count = prod(scales.shape)
    for first in range(0, count, _PIECE):
        piece = min(_PIECE, count - first)
        try:
            bits = np.fromfile(scales.file, wide, piece, offset=scales.offset + first * wide.itemsize)
        except OSError as error:
            raise FileError(f"{scales.file}: {error.strerror}", file=scales.file, errno=error.errno) from error
        values = (bits.astype("<u4") << 16 if scales.dtype == "BF16" else bits).view("<f4")
        with np.errstate(over="ignore"):
            if not np.array_equal(values.astype("<f2").astype("<f4"), values):
                return False
    return True

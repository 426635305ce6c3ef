"""Codes on kept scales, in torch arithmetic: on any device, and bit for bit what the native code decodes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from ggquant import _native


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The values that the weights of encoded rows can take while their scales stay.

    A weight of sub-block `j` is `scale[j] * table[code] + offset[j]`.

    Attributes:
        scale: float32 `[rows, columns / sub_len, 1]`.
        offset: the same, or None where the format has none.
        table: float32 `[levels]`, rising.
        sub_len: weights that share a scale.
        first: the lowest value, where the table counts up from it by ones; else None.
    """

    scale: torch.Tensor
    offset: torch.Tensor | None
    table: torch.Tensor
    sub_len: int
    first: float | None

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.scale.device

    def codes(self, rows: torch.Tensor) -> torch.Tensor:
        """The code of the nearest value for each weight: uint8 `[rows, columns]`.

        Args:
            rows: float32 `[rows, columns]`.

        Of two values equally near, that of the even code is taken on evenly spaced tables, the lower one on others.
        Codes count from the table's lowest value. Where the scale is 0 all codes mean the same, and that of the table's
        zero is taken.
        """
        x = self._scaled(rows)
        if self.first is not None:
            codes = (torch.round(x) - self.first).clamp_(0, self.table.numel() - 1)
        else:
            middles = (self.table[1:] + self.table[:-1]) / 2
            codes = torch.searchsorted(middles, x)
        return codes.to(torch.uint8).reshape(rows.shape)

    def values(self, codes: torch.Tensor) -> torch.Tensor:
        """What codes `[rows, columns]` decode to: float32 of that shape."""
        split = codes.reshape(self._split(codes))
        steps = self.table[split.int()] if self.first is None else split.float() + self.first
        values = self.scale * steps
        if self.offset is not None:
            values += self.offset
        return values.reshape(codes.shape)

    def inside(self, rows: torch.Tensor) -> torch.Tensor:
        """Which weights lie within half a step of their sub-block's range: boolean `[rows, columns]`.

        Beyond it a code is clamped, and moving the weight does not move its value.
        """
        x = self._scaled(rows)
        low = self.table[0] - (self.table[1] - self.table[0]) / 2
        high = self.table[-1] + (self.table[-1] - self.table[-2]) / 2
        return ((x >= low) & (x <= high)).reshape(rows.shape)

    def _split(self, rows: torch.Tensor) -> tuple[int, int, int]:
        return rows.shape[0], rows.shape[1] // self.sub_len, self.sub_len

    def _scaled(self, rows: torch.Tensor) -> torch.Tensor:
        split = rows.reshape(self._split(rows))
        if self.offset is not None:
            split = split - self.offset
        # Divided by infinity it is 0, where the scale is 0 and all codes mean the same.
        return split / torch.where(self.scale == 0, torch.inf, self.scale)


@cache
def has_grid(format: str) -> bool:
    """Whether each weight of the format has a code of its own on a scale: all but those with codebooks of vectors."""
    return format in _native.scalar_formats()


def grid_of(format: str, blocks: npt.NDArray[np.uint8], columns: int, device: torch.device) -> Grid:
    """The grid of encoded rows of `columns` weights."""
    scale, offset, table, sub_len = _native.block_grid(format, blocks)
    even = bool((np.diff(table) == 1).all())
    shape = (-1, columns // sub_len, 1)
    return Grid(
        torch.from_numpy(scale).to(device).reshape(shape),
        torch.from_numpy(offset).to(device).reshape(shape) if offset.size else None,
        torch.from_numpy(table).to(device),
        sub_len,
        float(table[0]) if even else None,
    )

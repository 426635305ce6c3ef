"""Codes on kept scales, in torch arithmetic: on any device, and bit for bit what the native code decodes.

`Grid` is for formats in which every weight has a code of its own; `ggquant.qat.vectors` has those with codebooks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from ggquant import _native

#: Weights that a thread works on at a time on a CPU, so that what one operation leaves is in its cache for the next.
_CACHED = 1 << 15


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The values that the weights of encoded rows can take while their scales stay.

    A weight of sub-block `j` is `scale[j] * table[code] + offset[j]`.

    Attributes:
        format: block format.
        blocks: the rows, encoded.
        scale: float32 `[rows, columns / sub_len, 1]`.
        divisor: the same, infinite where the scale is 0: all codes mean the same there, and that of 0 is taken.
        offset: as `scale`, or None where the format has none.
        table: float32 `[levels]`, whole numbers, rising.
        sub_len: weights that share a scale.
        first: the lowest value, where the table counts up from it by ones; else None.
        code_of: where the table does not: the code for each half step from the lowest value to the highest.
    """

    format: str
    blocks: npt.NDArray[np.uint8]
    scale: torch.Tensor
    divisor: torch.Tensor
    offset: torch.Tensor | None
    table: torch.Tensor
    sub_len: int
    first: float | None
    code_of: torch.Tensor | None

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
        x = torch.empty(self._split(rows), dtype=torch.float32, device=rows.device)
        self._scaled(rows, slice(None), x)
        if self.first is not None:
            codes = x.round_().sub_(self.first).clamp_(0, self.table.numel() - 1)
        else:
            assert self.code_of is not None
            codes = self.code_of[self._half_steps(x)]
        return codes.to(torch.uint8).reshape(rows.shape)

    def values(self, codes: torch.Tensor) -> torch.Tensor:
        """What codes `[rows, columns]` decode to: float32 of that shape."""
        split = codes.reshape(self._split(codes))
        steps = self.table[split.int()] if self.first is None else split.float() + self.first
        return self._decoded(steps, slice(None)).reshape(codes.shape)

    def nearest(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """Writes `values(codes(rows))` to `out`, in fewer passes over memory.

        Args:
            rows: float32 `[rows, columns]`.
            out: of the shape and type of `rows`, contiguous; it may not overlap them.
        """
        count, columns = rows.shape
        step = count
        if rows.device.type == "cpu":
            step = max(1, _CACHED * torch.get_num_threads() // columns)
        for start in range(0, count, step):
            part = slice(start, start + step)
            x = out[part].view(self._split(out[part]))
            self._scaled(rows[part], part, x)
            if self.first is not None:
                # The zero that is added turns -0, which rounding leaves, into the 0 that a code decodes to.
                x.round_().clamp_(self.first, self.first + self.table.numel() - 1).add_(0.0)
            else:
                assert self.code_of is not None
                x.copy_(self.table[self.code_of][self._half_steps(x)])
            self._decoded(x, part)

    def inside(self, rows: torch.Tensor) -> torch.Tensor:
        """Which weights lie within half a step of their sub-block's range: boolean `[rows, columns]`.

        Beyond it a code is clamped, and moving the weight does not move its value.
        """
        x = torch.empty(self._split(rows), dtype=torch.float32, device=rows.device)
        self._scaled(rows, slice(None), x)
        low = self.table[0] - (self.table[1] - self.table[0]) / 2
        high = self.table[-1] + (self.table[-1] - self.table[-2]) / 2
        return ((x >= low) & (x <= high)).reshape(rows.shape)

    def drawn_in(self, rows: torch.Tensor, values: torch.Tensor, margin: float) -> torch.Tensor:
        """`rows`, moved no further than it takes for their codes to be those of `values`.

        Args:
            rows: float32 `[rows, columns]`.
            values: values of the grid, of the same shape.
            margin: how far from the border with the next code they come to lie at least, above 0 and at most 1: as a
                share of the way from there to the value. At 1 they are the values.

        Returns:
            float32 `[rows, columns]`. Where a code is the last of its side, the border is as far beyond the value as
            the one before it. Where the scale is 0, all codes mean the same, and the weight stays.
        """
        split = self._split(rows)
        codes = self.codes(values).int().reshape(split)
        between = (self.table[1:] + self.table[:-1]) / 2
        edges = torch.cat([2 * self.table[:1] - between[:1], between, 2 * self.table[-1:] - between[-1:]])
        low, high = (torch.lerp(border, self.table, margin) for border in (edges[:-1], edges[1:]))
        x = torch.empty(split, dtype=torch.float32, device=rows.device)
        self._scaled(rows, slice(None), x)
        moved = self._decoded(torch.minimum(torch.maximum(x, low[codes]), high[codes]), slice(None))
        stays = torch.isinf(self.divisor)
        return torch.where(stays, rows.reshape(split), moved).reshape(rows.shape)

    def keeps(self, rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Which weights have the codes of `values`, values of the grid: boolean `[rows, columns]`."""
        return self.codes(rows) == self.codes(values)

    def encoded(self, rows: torch.Tensor) -> npt.NDArray[np.uint8]:
        """The grid's blocks with `codes(rows)`."""
        return _native.with_codes(self.format, self.blocks, self.codes(rows).cpu().numpy().reshape(-1))

    def _split(self, rows: torch.Tensor) -> tuple[int, int, int]:
        return rows.shape[0], rows.shape[1] // self.sub_len, self.sub_len

    def _scaled(self, rows: torch.Tensor, part: slice, x: torch.Tensor) -> None:
        """Writes weights in units of their scale to `x`; `part` says which of the grid's rows they are."""
        split = rows.reshape(self._split(rows))
        if self.offset is not None:
            split = torch.sub(split, self.offset[part], out=x)
        torch.div(split, self.divisor[part], out=x)

    def _half_steps(self, x: torch.Tensor) -> torch.Tensor:
        """Places in `code_of`. A middle between two whole numbers is a whole number of halves, so this is exact."""
        low, high = 2 * self.table[0], 2 * self.table[-1]
        return x.mul_(2).ceil_().clamp_(low, high).sub_(low).int()

    def _decoded(self, steps: torch.Tensor, part: slice) -> torch.Tensor:
        steps.mul_(self.scale[part])
        return steps if self.offset is None else steps.add_(self.offset[part])


@cache
def has_codes(format: str) -> bool:
    """Whether each weight of the format has a code of its own on a scale: all but those with codebooks of vectors."""
    return format in _native.scalar_formats()


def grid_of(format: str, blocks: npt.NDArray[np.uint8], columns: int, device: torch.device) -> Grid:
    """The grid of encoded rows of `columns` weights."""
    scale, offset, table, sub_len = _native.block_grid(format, blocks)
    even = bool((np.diff(table) == 1).all())
    shape = (-1, columns // sub_len, 1)
    scales = torch.from_numpy(scale).to(device).reshape(shape)
    return Grid(
        format,
        blocks,
        scales,
        torch.where(scales == 0, torch.inf, scales),
        torch.from_numpy(offset).to(device).reshape(shape) if offset.size else None,
        torch.from_numpy(table).to(device),
        sub_len,
        float(table[0]) if even else None,
        None if even else torch.from_numpy(_codes_of_half_steps(table)).to(device),
    )


def _codes_of_half_steps(table: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The code for weights above `h - 0.5` up to `h` halves, h from twice the lowest value to twice the highest."""
    halves = np.arange(2 * table[0], 2 * table[-1] + 1)
    return np.searchsorted(table[1:] + table[:-1], halves).astype(np.int64)

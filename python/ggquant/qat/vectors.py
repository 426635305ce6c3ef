"""Codes of the formats with codebooks (IQ1, IQ2, IQ3) on kept scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ggquant import _native

#: Weights whose signs are stored together.
_GROUP = 8
#: Distances that are looked at at a time, so that they fit a device's memory.
_DISTANCES = 1 << 26
#: Halvings of the way into a cell: to a four-thousandth of it.
_HALVINGS = 12


@dataclass(frozen=True, slots=True, eq=False)
class VectorGrid:
    """The values that the weights of encoded rows can take while their scales stay.

    Coordinate `i` of a vector in sub-block `j` is `scale[j] * (sign * point[i] + shift)`.

    Attributes:
        format: block format.
        blocks: the rows, encoded.
        columns: weights of a row.
        scale: float32 `[rows, columns / sub_len, 1]`.
        shift: float32 `[rows, columns / 8, 1]`, or None where vectors have none.
        points: float32 `[points, dims]`.
        sub_len: weights that share a scale.
        signs: "in points" where points have their own, "any" where each weight has one, "even" where the last of eight
            makes the number of minus signs even.
        threads: of the native search, None for one per core.
    """

    format: str
    blocks: npt.NDArray[np.uint8]
    columns: int
    scale: torch.Tensor
    shift: torch.Tensor | None
    points: torch.Tensor
    sub_len: int
    signs: str
    threads: int | None

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.scale.device

    def codes(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest points and the signs, in torch arithmetic on any device: the codes that `encoded` chooses.

        Args:
            rows: float32 `[rows, columns]`.

        Returns:
            int64 `[rows, columns / dims]`; uint8 `[rows, columns / 8]`, a set bit for a minus, empty where points have
            signs. Signs are those of the weights in units of their scale; where they must be even and are not, that of
            the weight nearest to 0 is turned. Of points equally near, the first is taken.
        """
        y = self._in_units(rows)
        if self.signs == "in points":
            signs = torch.empty(rows.shape[0], 0, dtype=torch.uint8, device=rows.device)
        else:
            minus = y < 0
            if self.signs == "even":
                odd = minus.sum(dim=-1, keepdim=True) % 2 == 1
                minus ^= torch.zeros_like(minus).scatter_(-1, _first_least(y.abs()), odd)
            y = torch.where(minus, -y, y)
            bits = torch.tensor([1 << i for i in range(_GROUP)], device=rows.device)
            signs = (minus * bits).sum(dim=-1).to(torch.uint8)
        vectors = y.reshape(-1, self.points.shape[1])
        nearest = [self._nearest(part) for part in vectors.split(max(1, _DISTANCES // self.points.shape[0]))]
        return torch.cat(nearest).reshape(rows.shape[0], -1), signs

    def values(self, codes: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """What points and signs decode to: float32 `[rows, columns]`."""
        points, signs = codes
        levels = self.points[points].reshape(points.shape[0], -1, _GROUP)
        if signs.numel():
            bits = torch.arange(_GROUP, device=signs.device)
            levels = torch.where(signs[..., None] >> bits & 1 == 1, -levels, levels)
        if self.shift is not None:
            levels = levels + self.shift
        split = levels.reshape(points.shape[0], -1, self.sub_len)
        return (split * self.scale).reshape(points.shape[0], self.columns)

    def nearest(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """Writes `values(codes(rows))` to `out`; on a CPU it is found by the native search.

        Args:
            rows: float32 `[rows, columns]`.
            out: of the shape and type of `rows`, contiguous; it may not overlap them.
        """
        if rows.device.type != "cpu":
            out.copy_(self.values(self.codes(rows)))
        else:
            _native.decode(self.format, self.encoded(rows), self.columns, self.threads, out.reshape(-1).numpy())

    def encoded(self, rows: torch.Tensor) -> npt.NDArray[np.uint8]:
        """The grid's blocks with the codes nearest to `rows`, of any device, by the native search."""
        flat = rows.detach().cpu().contiguous().reshape(-1).numpy()
        return _native.nearest_codes(self.format, self.blocks, flat, self.columns, self.threads)

    def inside(self, rows: torch.Tensor) -> torch.Tensor:
        """Which weights lie within half a step of their sub-block's range: boolean `[rows, columns]`.

        Beyond it moving the weight alone does not move its value.
        """
        levels = self.points.abs().unique()
        bound = levels[-1] + (levels[-1] - levels[-2]) / 2
        return (self._in_units(rows).abs() <= bound).reshape(rows.shape)

    def keeps(self, rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Which weights are in a group of eight with the codes of `values`: boolean `[rows, columns]`."""
        found = torch.empty_like(values)
        self.nearest(rows, found)
        same = (found == values).reshape(rows.shape[0], -1, _GROUP).all(dim=-1, keepdim=True)
        return same.expand(-1, -1, _GROUP).reshape(rows.shape)

    def drawn_in(self, rows: torch.Tensor, values: torch.Tensor, margin: float) -> torch.Tensor:
        """`rows`, moved towards `values` no further than it takes for their codes to be those of `values`.

        Args:
            rows: float32 `[rows, columns]`.
            values: values of the grid, of the same shape.
            margin: how far from the border of their group's cell, on the way to the value, they come to lie at least,
                above 0 and at most 1: as a share of the way from the border to the value. At 1 they are the values.

        Returns:
            float32 `[rows, columns]`. Where the scale is 0, all codes mean the same, and the weight stays.
        """
        split = (rows.shape[0], -1, _GROUP)
        way = rows - values
        # The border may lie beyond the weight; it counts as long as the weight lies in the outer share of the way.
        low = torch.zeros(rows.shape[0], self.columns // _GROUP, 1, device=rows.device)
        high = torch.full_like(low, 1 / (1 - margin) if margin < 1 else 0)
        reach = high
        for _ in range(_HALVINGS if margin < 1 else 0):
            at = (values.reshape(split) + reach * way.reshape(split)).reshape(rows.shape)
            held = self.keeps(at, values).reshape(split)[..., :1]
            low, high = torch.where(held, reach, low), torch.where(held, high, reach)
            reach = (low + high) / 2
        moved = (values.reshape(split) + (1 - margin) * low * way.reshape(split)).reshape(rows.shape)
        moved = torch.where(self.keeps(moved, values), moved, values)
        stays = (self.scale == 0).expand(-1, -1, self.sub_len).reshape(rows.shape)
        return torch.where(stays, rows, moved)

    def _in_units(self, rows: torch.Tensor) -> torch.Tensor:
        """Weights in units of their scale, less the shift: `[rows, columns / 8, 8]`."""
        split = rows.reshape(rows.shape[0], -1, self.sub_len)
        y = (split / torch.where(self.scale == 0, torch.inf, self.scale)).reshape(rows.shape[0], -1, _GROUP)
        return y if self.shift is None else y - self.shift

    def _nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        """Numbers of the points nearest to `[vectors, dims]`, summed up by coordinate as in the native search."""
        costs = torch.zeros(vectors.shape[0], self.points.shape[0], device=vectors.device)
        for i in range(self.points.shape[1]):
            diff = vectors[:, i, None] - self.points[:, i]
            costs += diff * diff
        return _first_least(costs)[:, 0]


def vector_grid(
    format: str, blocks: npt.NDArray[np.uint8], columns: int, device: torch.device, threads: int | None = None
) -> VectorGrid:
    """The grid of encoded rows of `columns` weights."""
    scale, shift, points, dims, sub_len, signs = _native.block_vectors(format, blocks)
    return VectorGrid(
        format,
        blocks,
        columns,
        torch.from_numpy(scale).to(device).reshape(-1, columns // sub_len, 1),
        torch.from_numpy(shift).to(device).reshape(-1, columns // _GROUP, 1) if shift.size else None,
        torch.from_numpy(points).to(device).reshape(-1, dims),
        sub_len,
        signs,
        threads,
    )


def _first_least(values: torch.Tensor) -> torch.Tensor:
    """Place of the first of the least along the last dimension, which it keeps. `argmin` promises no order."""
    places = torch.arange(values.shape[-1], device=values.device)
    least = values == values.amin(dim=-1, keepdim=True)
    return torch.where(least, places, values.shape[-1]).amin(dim=-1, keepdim=True)

"""Learned scales: each block's float scales times a gain that is trained with the weights (LSQ).

Esser et al., 2019, arXiv 1902.08153. A value is `v = s * c + o` with the code `c = clamp(round((w - o) / s))`. In a
block, `s` is a float16 times the gain times the sub-block's integer, and `o` likewise with the block's second float16,
if it has one. Where rounding counts as the identity, `dv/dgain = (v - w) / gain` for a weight within its range, and
`(v - o) / gain` for one beyond it, whose code is clamped. The gain of the offset moves only the latter:
`dv/dgain = o / gain` (Bhalgat et al., 2020, arXiv 2004.09576).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ggquant.errors import NonFiniteError
from ggquant.qat.kept import Grid
from ggquant.qat.mapping import Piece
from ggquant.registry import format_info

Blocks = npt.NDArray[np.uint8]

#: Where a block has its float16 scale, and the float16 that its offsets are multiples of.
_FLOATS: dict[str, tuple[int, ...]] = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q1_0": (0,),
    "Q2_0": (0,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}


def has_float_scales(format: str) -> bool:
    """Whether each weight of the format has a code of its own, on a scale that is a float16 times an integer."""
    return format in _FLOATS


def unit_gains(piece: Piece) -> torch.nn.Parameter:
    """Gains of 1 for a piece's blocks: float32 `[blocks, floats of a block]`."""
    blocks = piece.rows * piece.columns // format_info(piece.format).block_len
    return torch.nn.Parameter(torch.ones(blocks, len(_FLOATS[piece.format])))


def with_gains(piece: Piece, blocks: Blocks, gains: torch.Tensor) -> Blocks:
    """The blocks with their floats times the gains, rounded to float16 as the format has them.

    Raises:
        NonFiniteError: a product is not finite in float16.
    """
    out = blocks.reshape(gains.shape[0], -1).copy()
    factors = gains.detach().cpu().numpy()
    for number, at in enumerate(_FLOATS[piece.format]):
        field = out[:, at : at + 2].copy().view(np.float16)[:, 0]
        with np.errstate(over="ignore"):
            field = (field.astype(np.float32) * factors[:, number]).astype(np.float16)
        if not np.isfinite(field).all():
            raise NonFiniteError(
                f"{piece.parameter}: a learned scale is beyond float16; the training has diverged, lower the learning "
                "rate of scale_parameters(model)",
                tensor=piece.tensor,
            )
        out[:, at : at + 2] = field[:, None].view(np.uint8)
    flat: Blocks = out.reshape(-1)
    return flat


@dataclass(frozen=True, slots=True)
class Learned:
    """What backward needs of a weight's last forward.

    Attributes:
        pieces: the weight's pieces.
        grids: the scales, with gains, of each.
        values: the quantized weight.
        mask: where the weight's own gradient passes, or None for everywhere.
    """

    pieces: list[Piece]
    grids: list[Grid]
    values: torch.Tensor
    mask: torch.Tensor | None


class LearnedScales(torch.autograd.Function):
    """The quantized weight in forward; in backward straight through to the weight, and LSQ's slope to the gains."""

    @staticmethod
    def forward(ctx: Any, state: Learned, weight: torch.Tensor, *gains: torch.Tensor) -> torch.Tensor:
        """`state.values`, as a function of the weight and of its pieces' gains."""
        ctx.state = state
        ctx.save_for_backward(weight, *gains)
        return state.values.detach()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients of the weight and of each piece's gains; those of gains times LSQ's `1 / sqrt(N * Q)`."""
        state: Learned = ctx.state
        weight, *gains = ctx.saved_tensors
        own = gradient if state.mask is None else gradient * state.mask
        slopes = []
        for piece, grid, gain in zip(state.pieces, state.grids, gains, strict=True):
            rows, values, slope = (piece.gather(t).float() for t in (weight, state.values, gradient.contiguous()))
            inside = grid.inside(rows)
            if grid.offset is None:
                parts = [torch.where(inside, values - rows, values)]
            else:
                offset = grid.offset.expand(-1, -1, grid.sub_len).reshape(rows.shape)
                parts = [torch.where(inside, values - rows, values - offset), torch.where(inside, 0.0, offset)]
            sums = [(slope * part).reshape(gain.shape[0], -1).sum(dim=1) for part in parts]
            block = rows.numel() // gain.shape[0]
            scale = 1.0 / (block * float(grid.table.abs().max())) ** 0.5
            slopes.append(torch.stack(sums, dim=1) / gain * scale)
        return None, own, *slopes

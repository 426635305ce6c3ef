"""Weights clipped before they are rounded: a smaller range has finer steps.

Reference: Lin et al. 2023, "AWQ" (arXiv 2306.00978), whose code searches how far the largest weights of each group are
cut before rounding to nearest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggquant.errors import ShapeError
from ggquant.methods.awq import row_losses
from ggquant.registry import format_info
from ggquant.tensor import QuantizedTensor, quantize

Floats = npt.NDArray[np.float32]

#: How far the largest magnitude of a group is cut, besides not at all.
RATIOS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55)

#: Columns of a group: those of a scale in nearly all formats.
GROUP = 32


@dataclass(frozen=True)
class Clipped:
    """Rounded weights, some of whose blocks were clipped first.

    Attributes:
        tensor: the weights in their block format.
        rounded: `e^T H e` of each row without clipping.
        clipped: the same of each row of `tensor`; never more.
        share: part of the blocks that were clipped.
    """

    tensor: QuantizedTensor
    rounded: npt.NDArray[np.float64]
    clipped: npt.NDArray[np.float64]
    share: float


def awq_clip(w: npt.ArrayLike, hessian: npt.ArrayLike, format: str, *, threads: int | None = None) -> Clipped:
    """Rounds weights with their importance matrix, after clipping each block as suits it best.

    For each block, groups of 32 weights are cut at a share of their largest magnitude; of all shares, and none, that
    with the least `e_b^T H_bb e_b` is taken, `H_bb` being the block's part of the Hessian. A row whose whole
    `e^T H e` is no better for it stays as it was.

    Args:
        w: weights `[rows, K]`.
        hessian: `X^T X / n`, `[K, K]`.
        format: a block format.
        threads: number of threads, by default one per core. It does not change the result.

    Raises:
        ShapeError: shapes do not go together, or K is not a multiple of the block length.
        NonFiniteError: a weight is NaN or infinite.
    """
    weights = np.ascontiguousarray(w, dtype=np.float32)
    square = np.ascontiguousarray(hessian, dtype=np.float32)
    if weights.ndim != 2 or square.shape != (weights.shape[1], weights.shape[1]):
        raise ShapeError(f"weights of shape {weights.shape} do not go with a Hessian of shape {square.shape}")
    info = format_info(format)
    rows, columns = weights.shape
    if columns % info.block_len:
        raise ShapeError(f"rows of {columns} weights do not divide into blocks of {info.block_len} ({info.name})")
    diagonal = np.maximum(np.diag(square), 0)
    importance = diagonal if diagonal.any() else np.ones_like(diagonal)
    count = columns // info.block_len
    # Blocks that are shorter than a group are clipped by themselves.
    groups = weights.reshape(rows, -1, min(GROUP, info.block_len))
    limits = np.abs(groups).max(axis=2, keepdims=True)
    parts = np.stack([square[at : at + info.block_len, at : at + info.block_len]
                      for at in range(0, columns, info.block_len)])  # fmt: skip

    def tried(values: Floats) -> tuple[npt.NDArray[np.uint8], Floats]:
        tensor = quantize(values.reshape(rows, columns), info.name, imatrix=importance, threads=threads)
        return tensor.data.reshape(rows, count, -1), weights - tensor.dequantize(threads=threads)

    def block_losses(errors: Floats) -> npt.NDArray[np.float64]:
        own = errors.reshape(rows, count, info.block_len)
        return np.stack([row_losses(np.ascontiguousarray(own[:, b]), parts[b], threads) for b in range(count)], axis=1)

    plain, plain_errors = tried(groups)
    best, errors, least = plain.copy(), plain_errors.reshape(rows, count, -1).copy(), block_losses(plain_errors)
    cut = np.zeros((rows, count), bool)
    for ratio in RATIOS:
        limit = np.float32(ratio) * limits
        data, own = tried(np.clip(groups, -limit, limit))
        losses = block_losses(own)
        better = losses < least
        best[better], errors[better] = data[better], own.reshape(rows, count, -1)[better]
        least, cut = np.minimum(losses, least), cut | better
    before = row_losses(plain_errors, square, threads)
    after = row_losses(errors.reshape(rows, columns), square, threads)
    worse = after >= before
    best[worse], cut[worse] = plain[worse], False
    tensor = QuantizedTensor(best.reshape(-1), info.name, weights.shape)
    return Clipped(tensor, before, np.minimum(after, before), float(cut.mean()))

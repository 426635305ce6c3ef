"""AWQ: columns that carry large activations are scaled up before rounding, and what feeds them is scaled down.

Reference: Lin et al. 2023, "AWQ" (arXiv 2306.00978). With `s > 0` for each column, `(W diag(s)) (diag(s)^-1 x)` is the
same product; rounding `W diag(s)` instead of `W` moves error from columns with a large `s` to those with a small one.
The reciprocal is folded into whatever makes x, such as the weight of the norm before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggquant.errors import ShapeError, UsageError
from ggquant.tensor import quantize

Floats = npt.NDArray[np.float32]

#: Gives the values that weights `[rows, K]` are rounded to, with the importance of their columns.
Rounding = Callable[[Floats, Floats], Floats]

#: Exponents that are tried: the paper's grid.
STEPS = 20

#: Scales stay within this factor of 1, so that a norm's weight keeps its precision.
_WIDEST = 64.0


@dataclass(frozen=True)
class AWQScales:
    """The result of a search.

    Attributes:
        scales: `s`, float32 `[K]`; all 1 where no other candidate lowers the loss.
        exponent: the `a` they were made with; None for the identity.
        before: loss with all scales 1.
        after: loss with `scales`; never more.
    """

    scales: Floats
    exponent: float | None
    before: float
    after: float


def awq_scales(
    weights: Sequence[npt.ArrayLike], hessian: npt.ArrayLike, formats: Sequence[str], *, threads: int | None = None
) -> AWQScales:
    """Searches the scales of weights that share an input.

    Candidates are `s = m^a / w^(1-a)` with `m` the root mean square of the inputs' columns, `w` the mean magnitude of
    the weights' columns relative to their rows' largest, and `a` from 0 to 1; and 1 for all columns. The loss of a
    candidate is `sum_rows e^T H e` with `e = W - Q(W diag(s)) diag(s)^-1`, where Q is the format's encoder with the
    importance matrix that goes with the scaled input.

    Args:
        weights: matrices `[rows, K]`.
        hessian: `X^T X / n`, `[K, K]`.
        formats: the block format of each matrix.
        threads: number of threads, by default one per core. It does not change the result.

    Raises:
        ShapeError: shapes do not go together.
        UsageError: not as many formats as weights.
    """
    if len(weights) != len(formats):
        raise UsageError(f"{len(formats)} formats for {len(weights)} weights")

    def rounding(format: str) -> Rounding:
        return lambda w, given: quantize(w, format, imatrix=given, threads=threads).dequantize(threads=threads)

    return search_scales(weights, hessian, [rounding(format) for format in formats])


def search_scales(weights: Sequence[npt.ArrayLike], hessian: npt.ArrayLike, rounding: Sequence[Rounding]) -> AWQScales:
    """The search of `awq_scales`, whatever weights are rounded to.

    Args:
        weights: matrices `[rows, K]`.
        hessian: `X^T X / n`, `[K, K]`.
        rounding: what rounds each matrix.

    Raises:
        ShapeError: shapes do not go together.
        UsageError: no weights.
    """
    matrices = [np.ascontiguousarray(w, dtype=np.float32) for w in weights]
    square = np.asarray(hessian, dtype=np.float32)
    if not matrices:
        raise UsageError("no weights to scale")
    columns = matrices[0].shape[-1]
    if any(w.ndim != 2 or w.shape[1] != columns for w in matrices) or square.shape != (columns, columns):
        shapes = ", ".join(str(w.shape) for w in matrices)
        raise ShapeError(f"weights of shapes {shapes} do not go with a Hessian of shape {square.shape}")
    inputs = np.sqrt(np.maximum(np.diag(square), 0)).astype(np.float64)
    peaks = [np.abs(w) / np.maximum(np.abs(w).max(axis=1, keepdims=True), 1e-30) for w in matrices]
    used = np.concatenate(peaks).mean(axis=0).astype(np.float64)
    alive = (inputs > 0) & (used > 0)
    ones = np.ones(columns, np.float32)
    before = _loss(matrices, square, rounding, ones)
    best = AWQScales(ones, None, before, before)
    for step in range(STEPS + 1 if alive.any() else 0):
        exponent = step / STEPS
        scales = np.ones(columns)
        scales[alive] = inputs[alive] ** exponent / used[alive] ** (1 - exponent)
        scales[alive] /= np.sqrt(scales[alive].max() * scales[alive].min())
        tried = np.clip(scales, 1 / _WIDEST, _WIDEST).astype(np.float32)
        loss = _loss(matrices, square, rounding, tried)
        if loss < best.after:
            best = AWQScales(tried, exponent, before, loss)
    return best


def _loss(matrices: Sequence[Floats], hessian: Floats, rounding: Sequence[Rounding], scales: Floats) -> float:
    importance = np.maximum(np.diag(hessian), 0) / (scales * scales)
    given = importance if importance.any() else np.ones_like(importance)
    total = 0.0
    for w, rounded in zip(matrices, rounding, strict=True):
        error = w - rounded(w * scales, given) / scales
        total += float(((error @ hessian) * error).sum(dtype=np.float64))
    return total

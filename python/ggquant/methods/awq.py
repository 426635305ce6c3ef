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
from ggquant.product import matmul
from ggquant.tensor import quantize

Floats = npt.NDArray[np.float32]

#: Gives the values that weights `[rows, K]` are rounded to, with the importance of their columns.
Rounding = Callable[[Floats, Floats], Floats]

#: Steps of the exponent: the paper's grid.
STEPS = 20

#: Scales stay within this factor of 1, so that a norm's weight keeps its precision.
_WIDEST = 64.0

#: Candidates are ranked by so many rows of each matrix, and the best of them judged by all rows.
_RANKED_ROWS, _JUDGED = 256, 3


@dataclass(frozen=True)
class AWQScales:
    """The result of a search.

    Attributes:
        scales: `s`, float32 `[K]`; all 1 where no other candidate lowers the loss.
        exponents: `(a, b)` of the `s = m^a / w^b` that they were made with; None for the identity.
        before: loss with all scales 1.
        after: loss with `scales`; never more.
    """

    scales: Floats
    exponents: tuple[float, float] | None
    before: float
    after: float


def awq_scales(
    weights: Sequence[npt.ArrayLike],
    hessian: npt.ArrayLike,
    formats: Sequence[str],
    *,
    channel_of: npt.ArrayLike | None = None,
    threads: int | None = None,
) -> AWQScales:
    """Searches the scales of weights that share an input.

    Candidates are `s = m^a / w^b` with `m` the root mean square of the inputs' columns, `w` the mean magnitude of the
    weights' columns relative to their rows' largest, `a` from 0 to 1, and `b` either `1 - a` or 0; and 1 for all
    columns. The loss of a candidate is `sum_rows e^T H e` with `e = W - Q(W diag(s)) diag(s)^-1`, where Q is the
    format's encoder with the importance matrix that goes with the scaled input. Candidates are ranked by up to 256
    rows of each matrix; the best three are held against the identity with all rows.

    Args:
        weights: matrices `[rows, K]`.
        hessian: `X^T X / n`, `[K, K]`.
        formats: the block format of each matrix.
        channel_of: `[K]` integers: columns with the same number share a scale, as do those that are made of the same
            value in attention with shared heads. By default every column has its own.
        threads: number of threads, by default one per core. It does not change the result.

    Raises:
        ShapeError: shapes do not go together.
        UsageError: not as many formats as weights.
    """
    if len(weights) != len(formats):
        raise UsageError(f"{len(formats)} formats for {len(weights)} weights")

    def rounding(format: str) -> Rounding:
        return lambda w, given: quantize(w, format, imatrix=given, threads=threads).dequantize(threads=threads)

    found = [rounding(format) for format in formats]
    return search_scales(weights, hessian, found, channel_of=channel_of, threads=threads)


def search_scales(
    weights: Sequence[npt.ArrayLike],
    hessian: npt.ArrayLike,
    rounding: Sequence[Rounding],
    *,
    judge: Callable[[Floats], float] | None = None,
    channel_of: npt.ArrayLike | None = None,
    threads: int | None = None,
) -> AWQScales:
    """The search of `awq_scales`, whatever weights are rounded to.

    Args:
        weights: matrices `[rows, K]`.
        hessian: `X^T X / n`, `[K, K]`.
        rounding: what rounds some rows of each matrix.
        judge: the loss with given scales, by which the best candidates are held against the identity; by default that
            of rounding all rows.
        channel_of, threads: as for `awq_scales`.

    Raises:
        ShapeError: shapes do not go together.
        UsageError: no weights.
    """
    matrices = [np.ascontiguousarray(w, dtype=np.float32) for w in weights]
    square = np.ascontiguousarray(hessian, dtype=np.float32)
    if not matrices:
        raise UsageError("no weights to scale")
    columns = matrices[0].shape[-1]
    channels = np.arange(columns) if channel_of is None else np.asarray(channel_of, np.int64)
    if any(w.ndim != 2 or w.shape[1] != columns for w in matrices) or square.shape != (columns, columns):
        shapes = ", ".join(str(w.shape) for w in matrices)
        raise ShapeError(f"weights of shapes {shapes} do not go with a Hessian of shape {square.shape}")
    if channels.shape != (columns,):
        raise ShapeError(f"channels of shape {channels.shape} for {columns} columns")
    ones = np.ones(columns, np.float32)
    some = [w[np.unique(np.linspace(0, len(w) - 1, _RANKED_ROWS).astype(int))] for w in matrices]
    candidates = [
        (scaled_loss(some, square, rounding, scales, threads), number, exponents, scales)
        for number, (exponents, scales) in enumerate(_candidates(matrices, square, channels))
    ]
    judging = judge or (lambda scales: scaled_loss(matrices, square, rounding, scales, threads))
    before = judging(ones)
    best = AWQScales(ones, None, before, before)
    for _, _, exponents, scales in sorted(candidates, key=lambda one: one[:2])[:_JUDGED]:
        loss = judging(scales)
        if loss < best.after:
            best = AWQScales(scales, exponents, before, loss)
    return best


def _candidates(
    matrices: Sequence[Floats], hessian: Floats, channels: npt.NDArray[np.int64]
) -> list[tuple[tuple[float, float], Floats]]:
    """Exponents and the scales of columns that they make."""
    counts = np.bincount(channels)
    squares = np.bincount(channels, np.maximum(np.diag(hessian), 0).astype(np.float64))
    inputs = np.sqrt(squares / np.maximum(counts, 1))
    peaks = [np.abs(w) / np.maximum(np.abs(w).max(axis=1, keepdims=True), 1e-30) for w in matrices]
    columns = np.concatenate(peaks).mean(axis=0, dtype=np.float64)
    used = np.bincount(channels, columns) / np.maximum(counts, 1)
    alive = (inputs > 0) & (used > 0)
    found: dict[bytes, tuple[tuple[float, float], Floats]] = {}
    if not alive.any():
        return []
    steps = [step / STEPS for step in range(STEPS + 1)]
    for exponents in [*((a, 1 - a) for a in steps), *((a, 0.0) for a in steps[1:-1])]:
        scales = np.ones(len(counts))
        scales[alive] = inputs[alive] ** exponents[0] / used[alive] ** exponents[1]
        scales[alive] /= np.sqrt(scales[alive].max() * scales[alive].min())
        tried = np.clip(scales, 1 / _WIDEST, _WIDEST).astype(np.float32)[channels]
        found.setdefault(tried.tobytes(), (exponents, tried))
    return list(found.values())


def row_losses(errors: Floats, hessian: Floats, threads: int | None = None) -> npt.NDArray[np.float64]:
    """`e^T H e` of each row of `errors` [rows, K]; the same with any number of threads."""
    product = matmul(hessian, errors, activations="float32", threads=threads)
    return np.asarray((product * errors).sum(axis=1, dtype=np.float64))


def scaled_loss(
    matrices: Sequence[Floats],
    hessian: Floats,
    rounding: Sequence[Rounding],
    scales: Floats,
    threads: int | None = None,
) -> float:
    """What is lost when the columns of matrices are scaled before rounding, under the Hessian of the unscaled input."""
    importance = np.maximum(np.diag(hessian), 0) / (scales * scales)
    given = importance if importance.any() else np.ones_like(importance)
    total = 0.0
    for w, rounded in zip(matrices, rounding, strict=True):
        error = w - rounded(w * scales, given) / scales
        total += float(row_losses(error, hessian, threads).sum())
    return total

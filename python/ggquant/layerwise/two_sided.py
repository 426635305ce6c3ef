"""Solving a weight when the errors of its rows make up for each other as well.

Minimises `tr(G E H E^T)` over the errors E [rows, K]. With `G = R R^T`, R upper triangular, this is a sum over rows of
the Hessian's form of `e_a + sum_{i<a} R_aa^-1 R_ia e_i`, so that a batch of rows is best solved after its weights have
been moved by what the errors of the rows before it ask for (Tseng et al. 2025, arXiv 2505.22988). Rows of a batch are
taken from all over the weight: neighbours, which mostly belong to the same head, go to different batches.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ggquant.errors import UnsupportedError
from ggquant.linalg import cholesky, product, solve_damped, solve_triangular
from ggquant.methods.solver import FactoredHessian
from ggquant.product import matmul
from ggquant.tensor import QuantizedTensor

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

#: Rows of a batch, at least, and batches, at most.
_BATCH, _BATCHES = 32, 32


def solve_two_sided(
    factored: FactoredHessian,
    w: Floats,
    gram: Doubles,
    format: str,
    *,
    damp: float,
    sweeps: int = 1,
    threads: int | None = None,
) -> tuple[QuantizedTensor, Floats]:
    """Solves weights `[rows, K]` into a block format.

    Args:
        factored: the Hessian of the input.
        w: the weights.
        gram: second moment of the gradients at the output, [rows, rows].
        format: a block format with a solver.
        damp: added to the diagonal of `gram`, relative to its mean.
        sweeps: how often every batch is solved; after the first time only results that lower the objective are kept.
        threads: number of threads. It does not change the result.

    Returns:
        The blocks, and the errors `w - q`.
    """
    rows = len(w)
    count = min(_BATCHES, max(1, rows // _BATCH))
    batches = [np.arange(first, rows, count) for first in range(count)]
    order = np.concatenate(batches)
    ends = np.cumsum([0, *(len(batch) for batch in batches)])
    damped = gram[np.ix_(order, order)]
    diagonal = np.einsum("ii->i", damped)
    mean = float(diagonal.mean()) or 1.0
    diagonal += damp * mean
    turned = cholesky(damped[::-1, ::-1], threads)
    if turned is None:
        raise UnsupportedError("the second moment of the gradients is not positive definite; raise its damping")
    upper = np.triu(turned).T[::-1, ::-1]
    errors = np.zeros((rows, w.shape[1]), np.float32)
    blocks: list[npt.NDArray[np.uint8]] = [np.empty(0, np.uint8)] * count
    for number, batch in enumerate(batches):
        own = slice(ends[number], ends[number + 1])
        asked = solve_triangular(upper[own, own], upper[: own.start, own], threads).T
        shift = product(asked.astype(np.float32), errors[: own.start], threads).astype(np.float32)
        solved = factored.solve(w[batch] + shift, format, threads=threads).tensor
        errors[own] = w[batch] - solved.dequantize(threads=threads)
        blocks[number] = solved.data.reshape(len(batch), -1)
    hessian = factored.hessian
    for _ in range(sweeps - 1):
        for number, batch in enumerate(batches):
            own = slice(ends[number], ends[number + 1])
            square = damped[own, own]
            others = damped[own].copy()
            others[:, own] = 0
            asked = solve_damped(square, others.T, 0.0, threads).T
            shift = product(asked.astype(np.float32), errors, threads).astype(np.float32)
            solved = factored.solve(w[batch] + shift, format, threads=threads).tensor
            tried = w[batch] - solved.dequantize(threads=threads)
            if _loss(tried + shift, square, hessian, threads) < _loss(errors[own] + shift, square, hessian, threads):
                errors[own] = tried
                blocks[number] = solved.data.reshape(len(batch), -1)
    data = np.empty((rows, blocks[0].shape[1]), np.uint8)
    own_errors = np.empty_like(errors)
    data[order] = np.concatenate(blocks)
    own_errors[order] = errors
    return QuantizedTensor(data, format, (rows, w.shape[1])), own_errors


def two_sided_loss(errors: Floats, gram: Doubles, hessian: Floats, damp: float, threads: int | None = None) -> float:
    """`tr(G E H E^T)`, with the damping in G."""
    damped = gram.copy()
    diagonal = np.einsum("ii->i", damped)
    diagonal += damp * (float(diagonal.mean()) or 1.0)
    return _loss(errors, damped, hessian, threads)


def _loss(errors: Floats, gram: Doubles, hessian: Floats, threads: int | None) -> float:
    moved = matmul(hessian, errors, activations="float32", threads=threads)
    return float((product(gram.astype(np.float32), errors, threads) * moved).sum())

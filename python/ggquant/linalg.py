"""Linear algebra whose results are the same on every machine.

numpy leaves products and factorisations to whatever BLAS and LAPACK it was built with, which choose kernels by the
processor, cut sums by the number of threads, and change both with their version. What ends up in blocks is computed
here instead: every sum has a fixed order of additions (see `rust/core/linalg/`), in float32 over 256 terms and in
float64 beyond, or in float64 throughout.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.errors import UnsupportedError

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]


def add_gram(out: Doubles, x: Floats, weighted: Floats | None = None, threads: int | None = None) -> None:
    """Adds `x^T x` to the upper triangle of `out`; `mirror` completes it.

    Args:
        out: [K, K], C-contiguous.
        x: [n, K].
        weighted: rows of `x` times a weight each, to add `x^T diag(weights) x` instead.
        threads: number of threads, by default one per core. It does not change the result.
    """
    _native.add_gram(_flat(x), None if weighted is None else _flat(weighted), x.shape[1], out.reshape(-1), threads)


def mirror(square: Doubles) -> None:
    """Copies what lies above the diagonal to below it, in place."""
    _native.mirror(square.reshape(-1), len(square))


def gram(x: Floats, threads: int | None = None) -> Doubles:
    """`x^T x` of rows `x` [n, K]: float64 [K, K]."""
    out = np.zeros((x.shape[1],) * 2)
    add_gram(out, x, threads=threads)
    mirror(out)
    return out


def add_products(out: Doubles, x: Floats, y: Floats, threads: int | None = None) -> None:
    """Adds `x^T y` to `out`.

    Args:
        out: [K, M], C-contiguous.
        x: [n, K].
        y: [n, M].
        threads: number of threads, by default one per core. It does not change the result.
    """
    _native.add_products(_flat(x), x.shape[1], _flat(y), y.shape[1], out.reshape(-1), threads)


def product(a: Floats, b: Floats, threads: int | None = None) -> Doubles:
    """`a b` of float32 matrices [n, K] and [K, M]: float64 [n, M]."""
    out = np.zeros((a.shape[0], b.shape[1]))
    add_products(out, a.T, b, threads)
    return out


def cholesky(a: Doubles, threads: int | None = None) -> Doubles | None:
    """`R` with `a = R^T R`, in the upper triangle of a copy of `a`; None where `a` is not positive definite."""
    factor = np.array(a, dtype=np.float64, order="C")
    return factor if _native.cholesky(factor.reshape(-1), len(factor), threads) else None


def solve_factored(factor: Doubles, b: npt.ArrayLike, threads: int | None = None) -> Doubles:
    """X with `X R^T R = b`.

    Args:
        factor: R in its upper triangle, see `cholesky`.
        b: [rows, K].
        threads: number of threads, by default one per core. It does not change the result.
    """
    return _solved(factor, b, True, threads)


def solve_triangular(factor: Doubles, b: npt.ArrayLike, threads: int | None = None) -> Doubles:
    """Y with `Y R = b`, for what is in the upper triangle of `factor`."""
    return _solved(factor, b, False, threads)


def solve_damped(a: Doubles, b: npt.ArrayLike, damp: float, threads: int | None = None) -> Doubles:
    """X with `X (a + damp mean(diag a)) = b`; damping grows tenfold until the matrix is positive definite.

    Columns that are zero throughout get the mean of the diagonal, so that they do no harm.

    Raises:
        UnsupportedError: no damping helps.
    """
    diagonal = np.diag(a)
    mean = float(diagonal.mean()) or 1.0
    added = damp
    while added < 1e4:
        damped = np.array(a, dtype=np.float64, order="C")
        np.einsum("ii->i", damped)[:] += added * mean + (diagonal == 0) * mean
        if _native.cholesky(damped.reshape(-1), len(damped), threads):
            return _solved(damped, b, True, threads)
        added = added * 10 if added else 1e-8
    raise UnsupportedError("a matrix of second moments is not positive definite with any damping")


def _solved(factor: Doubles, b: npt.ArrayLike, both: bool, threads: int | None) -> Doubles:
    x = np.array(b, dtype=np.float64, order="C")
    _native.solve_factored(_flat_doubles(factor), len(factor), x.reshape(-1), both, threads)
    return x


def _flat(x: Floats) -> Floats:
    return np.ascontiguousarray(x, dtype=np.float32).reshape(-1)


def _flat_doubles(x: Doubles) -> Doubles:
    return np.ascontiguousarray(x, dtype=np.float64).reshape(-1)


__all__ = [
    "add_gram", "add_products", "cholesky", "gram", "mirror", "product", "solve_damped", "solve_factored",
    "solve_triangular",
]  # fmt: skip

"""Rows of weights that try an encoder: everyday ones, and where a search, sign or rounding may go wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Rng = np.random.Generator
_Maker = Callable[[Rng, int, int], npt.NDArray[np.floating]]


def _scales(rng: Rng, n: int) -> npt.NDArray[np.float64]:
    """One scale a row: mostly like trained weights, some far off."""
    exponent = np.where(rng.random(n) < 0.7, rng.uniform(-10, 2, n), rng.uniform(-60, 12, n))
    return np.exp2(exponent)[:, None]


def _normal(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    return rng.standard_normal((n, k)) * _scales(rng, n)


def _heavy_tails(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    return np.clip(rng.standard_t(2, (n, k)), -1e4, 1e4) * _scales(rng, n)


def _outliers(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    rows = rng.standard_normal((n, k))
    rows[rng.random((n, k)) < 0.01] *= 100
    return rows * _scales(rng, n)


def _uneven_blocks(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    """Neighbouring sub-blocks of very different sizes."""
    sizes = np.exp2(rng.uniform(-20, 4, (n, k // 16)))
    return rng.standard_normal((n, k)) * np.repeat(sizes, 16, axis=1)


def _few_levels(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    """Ties: many weights of the same few values, some exactly between two codes."""
    levels = rng.integers(1, 9, (n, 1))
    return np.round(rng.uniform(-1, 1, (n, k)) * levels) / 2 * _scales(rng, n)


def _constant(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    return np.broadcast_to(rng.standard_normal((n, 1)) * _scales(rng, n), (n, k))


def _alternating(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    return _constant(rng, n, k) * np.where(np.arange(k) % 2, -1.0, 1.0)


def _one_hot(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    rows = np.zeros((n, k))
    rows[np.arange(n), rng.integers(0, k, n)] = (rng.standard_normal((n, 1)) * _scales(rng, n))[:, 0]
    return rows


def _sparse(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    return _normal(rng, n, k) * (rng.random((n, k)) < 0.05)


def _zero(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    """Zeros of either sign."""
    return np.where(rng.random((n, k)) < 0.5, -0.0, 0.0)


def _one_sided(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    """All weights of one sign, some rows far from zero with little spread."""
    offset = np.exp2(rng.uniform(-2, 8, (n, 1)))
    return (np.abs(rng.standard_normal((n, k))) + offset) * rng.choice([-1.0, 1.0], (n, 1)) * _scales(rng, n)


def _ramp(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    return np.linspace(-1, 1, k) * _scales(rng, n) + rng.standard_normal((n, 1)) * _scales(rng, n)


def _near_powers_of_two(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    """Exact powers of two and their neighbours, where exponents and logarithms round."""
    powers = np.exp2(rng.integers(-12, 4, (n, k))).astype(np.float32)
    step = rng.integers(-2, 3, (n, k), dtype=np.int32)
    return (powers.view(np.int32) + step).view(np.float32) * rng.choice(np.float32([-1, 1]), (n, k))


def _subnormal(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    """Weights whose scales are subnormal or vanish, as f32 and as f16."""
    return rng.standard_normal((n, k)) * np.exp2(rng.uniform(-149, -14, (n, 1)))


def _half_precision(rng: Rng, n: int, k: int) -> npt.NDArray[np.floating]:
    """Weights with few mantissa bits, as checkpoints have."""
    rows = _normal(rng, n, k).astype(np.float32)
    return (rows.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


_MAKERS: tuple[_Maker, ...] = (
    _normal,
    _heavy_tails,
    _outliers,
    _uneven_blocks,
    _few_levels,
    _constant,
    _alternating,
    _one_hot,
    _sparse,
    _zero,
    _one_sided,
    _ramp,
    _near_powers_of_two,
    _subnormal,
    _half_precision,
)


def batches(rng: Rng, total: int, row_len: int) -> list[tuple[str, Array]]:
    """At least `total` rows of `row_len` weights in all, by kind."""
    each = -(-total // len(_MAKERS))
    return [
        (maker.__name__.strip("_"), np.ascontiguousarray(maker(rng, each, row_len), dtype=np.float32))
        for maker in _MAKERS
    ]


def importances(rng: Rng, row_len: int) -> Array:
    """Positive importances of columns, spread as activations' squares are; some columns never seen."""
    values = np.exp2(rng.uniform(-12, 6, row_len))
    values[rng.random(row_len) < 0.05] = 0
    return values.astype(np.float32)

"""The search for AWQ's scales."""

from __future__ import annotations

import numpy as np
import pytest

import ggquant as gg
from ggquant.methods import awq_scales


def loss(w: np.ndarray, x: np.ndarray, format: str, s: np.ndarray, importance: np.ndarray) -> float:
    stored = gg.quantize((w * s).astype(np.float32), format, imatrix=importance).dequantize() / s
    return float(np.square(x.astype(np.float64) @ (w - stored).T).sum() / len(x))


def test_salient_columns_are_scaled_and_the_product_gets_closer() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, 256)).astype(np.float32)
    x[:, [5, 100, 101]] *= 30
    w = rng.standard_normal((24, 256)).astype(np.float32)
    hessian = x.T @ x / len(x)
    found = awq_scales([w[:16], w[16:]], hessian, ["Q4_0", "Q4_K"])
    assert found.exponent is not None and found.after < 0.9 * found.before
    assert found.scales[[5, 100, 101]].min() > np.median(found.scales)
    diagonal = np.diag(hessian)
    ones = np.ones(256, np.float32)
    # Held against the product itself: the Hessian's float32 sums are good to 1e-3 and better.
    for s, claimed in ((ones, found.before), (found.scales, found.after)):
        importance = diagonal / (s * s)
        real = loss(w[:16], x, "Q4_0", s, importance) + loss(w[16:], x, "Q4_K", s, importance)
        assert real == pytest.approx(claimed, rel=1e-3)


def test_identity_is_always_a_candidate() -> None:
    w = np.tile(np.linspace(-8, 7, 16, dtype=np.float32).round(), (4, 16))  # exact in Q4_0 as it is
    found = awq_scales([w], np.eye(256), ["Q4_0"])
    assert found.exponent is None and (found.scales == 1).all() and found.after == found.before


def test_inputs_that_are_always_zero_are_left_alone() -> None:
    rng = np.random.default_rng(2)
    hessian = np.diag(np.where(np.arange(64) < 8, 0.0, rng.uniform(0.1, 9, 64)))
    found = awq_scales([rng.standard_normal((8, 64))], hessian, ["Q4_0"])
    assert (found.scales[:8] == 1).all() and np.isfinite(found.scales).all()
    assert (awq_scales([np.ones((2, 64))], np.zeros((64, 64)), ["Q4_0"]).scales == 1).all()


def test_shapes_must_fit() -> None:
    with pytest.raises(gg.ShapeError, match="Hessian of shape"):
        awq_scales([np.ones((2, 64))], np.eye(32), ["Q4_0"])
    with pytest.raises(gg.UsageError, match="2 formats for 1 weights"):
        awq_scales([np.ones((2, 64))], np.eye(64), ["Q4_0", "Q4_0"])

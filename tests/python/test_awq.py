"""The search for AWQ's scales."""

from __future__ import annotations

import numpy as np
import pytest

import ggquant as gg
from ggquant.methods import awq_clip, awq_scales


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
    assert found.exponents is not None and found.after < 0.9 * found.before
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
    assert found.exponents is None and (found.scales == 1).all() and found.after == found.before


def test_inputs_that_are_always_zero_are_left_alone() -> None:
    rng = np.random.default_rng(2)
    hessian = np.diag(np.where(np.arange(64) < 8, 0.0, rng.uniform(0.1, 9, 64)))
    found = awq_scales([rng.standard_normal((8, 64))], hessian, ["Q4_0"])
    assert (found.scales[:8] == 1).all() and np.isfinite(found.scales).all()
    assert (awq_scales([np.ones((2, 64))], np.zeros((64, 64)), ["Q4_0"]).scales == 1).all()


def test_columns_of_a_channel_share_their_scale() -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((200, 128)) * np.exp(rng.standard_normal(128))
    channel_of = np.tile(np.arange(32), 4)
    found = awq_scales([rng.standard_normal((16, 128))], x.T @ x / len(x), ["Q4_0"], channel_of=channel_of)
    assert found.exponents is not None
    assert (found.scales.reshape(4, 32) == found.scales[:32]).all() and np.ptp(found.scales) > 0
    with pytest.raises(gg.ShapeError, match=r"channels of shape \(3,\)"):
        awq_scales([np.ones((2, 64))], np.eye(64), ["Q4_0"], channel_of=[0, 1, 2])


@pytest.mark.parametrize("format", ["Q4_0", "Q4_K", "IQ2_S", "NVFP4"])
def test_no_row_is_worse_for_being_clipped(format: str) -> None:
    rng = np.random.default_rng(4)
    w = rng.standard_t(3, (12, 512)).astype(np.float32)
    x = rng.standard_normal((300, 512)) @ rng.standard_normal((512, 512))
    hessian = (x.T @ x / len(x)).astype(np.float32)
    found = awq_clip(w, hessian, format)
    plain = gg.quantize(w, format, imatrix=np.diag(hessian))

    def losses(tensor: gg.QuantizedTensor) -> np.ndarray:
        errors = (w - tensor.dequantize()).astype(np.float64)
        return np.einsum("rk,kj,rj->r", errors, hessian.astype(np.float64), errors)

    np.testing.assert_allclose(found.rounded, losses(plain), rtol=1e-3)
    np.testing.assert_allclose(found.clipped, losses(found.tensor), rtol=1e-3)
    assert (found.clipped <= found.rounded).all() and 0 < found.share <= 1
    same = (found.tensor.data == plain.data).all(axis=1)
    assert (found.clipped[same] == found.rounded[same]).all()
    assert found.clipped.sum() < 0.99 * found.rounded.sum()
    one = awq_clip(w, hessian, format, threads=1)
    assert one.tensor == found.tensor and (one.clipped == found.clipped).all()


def test_weights_that_round_exactly_are_not_clipped() -> None:
    w = np.tile(np.linspace(-8, 7, 16, dtype=np.float32).round(), (4, 16))
    found = awq_clip(w, np.eye(256), "Q4_0")
    assert found.share == 0 and (found.clipped == 0).all()
    with pytest.raises(gg.ShapeError, match="do not divide into blocks of 256"):
        awq_clip(np.ones((2, 64)), np.eye(64), "Q4_K")
    with pytest.raises(gg.ShapeError, match="Hessian of shape"):
        awq_clip(np.ones((2, 64)), np.eye(32), "Q4_0")


def test_shapes_must_fit() -> None:
    with pytest.raises(gg.ShapeError, match="Hessian of shape"):
        awq_scales([np.ones((2, 64))], np.eye(32), ["Q4_0"])
    with pytest.raises(gg.UsageError, match="2 formats for 1 weights"):
        awq_scales([np.ones((2, 64))], np.eye(64), ["Q4_0", "Q4_0"])

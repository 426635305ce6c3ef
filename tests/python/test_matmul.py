"""Products with quantized weights: against ggml's, against float64, and what they must not depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ggquant as gg

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "products.npz"
STORED = [f for f in gg.formats() if f.storage]
BLOCKS = [f for f in STORED if f.block_len > 1]
ULP = 2.0**-24


def bell(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantized(format: str, rows: int, cols: int) -> gg.QuantizedTensor:
    return gg.quantize(bell(rows, cols) * np.float32(0.02), format, np.ones(cols, np.float32))


def columns(info: gg.FormatInfo) -> int:
    """More than a slab of 256, and not a multiple of it where the format allows that."""
    return 256 + max(info.block_len, 32)


def order_bound(format: str, weights: npt.NDArray[np.float32], x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """By how much two ways of adding up the same products of integers can differ, [n, rows].

    A result is a sum of terms `d_w * d_x * integer`, one for each 32 columns at the finest (16 for NVFP4), and as many
    `m_w * s_x` with minima; ggml may keep 8 partial sums. The integers are the same. Each way is off by at most one
    rounding for each addition and 4 within a term, each 2^-24 times the sum of the terms' magnitudes. That is at most
    the sum of max|w| |x| over blocks of 32; 3 times that with minima, where a weight is a difference of two parts, of
    which the second is at most max|w| (the weight of code 0) and the first at most 2 max|w|. Rounding to 8 bits adds
    at most max|x| / 254 to each |x|, the maximum being over 256.
    """
    parts = 3 if format in ("Q2_K", "Q4_K", "Q5_K", "Q4_1", "Q5_1") else 1
    terms = x.shape[1] / (16 if format == "NVFP4" else 32) * min(parts, 2) + 8
    sums = np.abs(x.reshape(len(x), -1, 32)).sum(2, dtype=np.float64)
    rounding = np.abs(x.reshape(len(x), -1, 256)).max(2) * 32 / 254
    largest = np.abs(weights.reshape(len(weights), -1, 32)).max(2).astype(np.float64)
    return 2 * (terms + 4) * ULP * parts * ((sums + np.repeat(rounding, 8, axis=1)) @ largest.T)


@pytest.mark.parametrize("format", [f.name for f in BLOCKS])
def test_int8_is_ggmls_product_up_to_the_order_of_additions(format: str) -> None:
    with np.load(GOLDEN) as golden:
        x, blocks, theirs = golden["x"], golden[f"{format}/w"], golden[f"{format}/y"]
    w = gg.QuantizedTensor(blocks, format, (len(blocks), x.shape[1]))
    bound = order_bound(format, w.dequantize(), x)
    for batch in (x[:1], x[:3], x, np.concatenate([x, x])):  # one of each kernel's size
        ours = w.matmul(batch)[: len(x)]
        assert (np.abs(ours - theirs[: len(ours)]) <= bound[: len(ours)]).all()
    # The bound is far below what rounding activations does, so it tells a wrong integer from another order.
    exact = x.astype(np.float64) @ w.dequantize().astype(np.float64).T
    assert np.abs(theirs - exact)[:2].max() > 5 * bound[:2].max()


@pytest.mark.parametrize("format", [f.name for f in STORED])
@pytest.mark.parametrize("n", [1, 3, 7, 9, 33])
def test_float32_is_close_to_float64(format: str, n: int) -> None:
    info = next(f for f in STORED if f.name == format)
    w = quantized(format, 19, 2 * columns(info))
    x = bell(n, w.shape[1], seed=1)
    exact = w.dequantize().astype(np.float64)
    # One rounding a column within a stretch of 256, one for each stretch, to first order; twice that to be sure of it.
    roundings = 256 + w.shape[1] // 256 + 1
    bound = 2 * roundings * ULP * (np.abs(x).astype(np.float64) @ np.abs(exact).T)
    assert (np.abs(w.matmul(x, activations="float32") - x.astype(np.float64) @ exact.T) <= bound).all()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_result_depends_on_its_row_and_the_weights_alone(data: st.DataObject) -> None:
    info = data.draw(st.sampled_from(STORED))
    rows, n = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 40))
    mode: Any = data.draw(st.sampled_from(["int8", "float32"]))
    w, x = quantized(info.name, rows, columns(info)), bell(n, columns(info), seed=data.draw(st.integers(0, 9)))
    whole = w.matmul(x, activations=mode, threads=1)
    assert np.array_equal(whole, w.matmul(x, activations=mode, threads=data.draw(st.integers(2, 4))))
    first = data.draw(st.integers(0, n - 1))
    last = data.draw(st.integers(first + 1, n))
    assert np.array_equal(whole[first:last], w.matmul(x[first:last], activations=mode))
    start = data.draw(st.integers(0, rows - 1))
    assert np.array_equal(whole[:, start:], w[start:].matmul(x, activations=mode))
    assert np.array_equal(whole[:, ::-2], w[::-2].matmul(x, activations=mode))


def test_forms_of_a_call_agree() -> None:
    w, x = quantized("Q4_K", 12, 256), bell(2, 3, 256)
    y = gg.matmul(w, x)
    assert y.shape == (2, 3, 12) and y.dtype == np.float32
    assert np.array_equal(y, w.matmul(x)) and np.array_equal(y, x @ w.T)
    assert w.T.shape == (256, 12) and w.T.T is w
    assert np.array_equal(y[0, 1], x[0, 1] @ w.T)
    assert np.array_equal(gg.matmul(w, x[:, ::-1, :]), y[:, ::-1])
    out = np.full_like(y, np.nan)
    assert w.matmul(x, out=out) is out and np.array_equal(out, y)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_halves_are_widened(dtype: npt.DTypeLike) -> None:
    w, x = quantized("Q6_K", 12, 256), bell(3, 256).astype(dtype)
    assert np.array_equal(w.matmul(x), w.matmul(x.astype(np.float32)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_arrays_of_weights_are_multiplied_in_float32(dtype: npt.DTypeLike) -> None:
    w, x = bell(50, 300).astype(dtype), bell(20, 300, seed=1)
    same = gg.matmul(w.astype(np.float32), x, activations="float32")
    assert np.array_equal(gg.matmul(w, x), same)
    exact = x.astype(np.float64) @ w.astype(np.float64).T
    assert np.abs(same - exact).max() < 300 * ULP * (np.abs(x) @ np.abs(w.astype(np.float32)).T).max()
    unaligned = np.frombuffer(b"x" + w.tobytes(), dtype=dtype, offset=1).reshape(w.shape)
    assert np.array_equal(gg.matmul(unaligned, x), same)


def test_out_may_be_where_the_activations_are() -> None:
    w = quantized("Q4_K", 256, 256)
    x = bell(20, 256)
    for mode in ("int8", "float32"):
        wanted, shared = w.matmul(x, activations=mode), x.copy()
        assert np.array_equal(w.matmul(shared, activations=mode, out=shared), wanted)


def test_out_must_fit() -> None:
    w, x = quantized("Q4_K", 4, 256), bell(3, 256)
    with pytest.raises(gg.ShapeError, match="out has shape"):
        w.matmul(x, out=np.empty((3, 5), np.float32))
    with pytest.raises(gg.DTypeError, match="float32"):
        w.matmul(x, out=np.empty((3, 4), np.float64))
    with pytest.raises(gg.UsageError, match="contiguous"):
        w.matmul(x, out=np.empty((4, 3), np.float32).T)
    frozen = np.empty((3, 4), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(gg.UsageError, match="writeable"):
        w.matmul(x, out=frozen)


@pytest.mark.parametrize("format", ["Q4_K", "Q4_1", "Q8_0", "F16"])
def test_nothing_to_multiply(format: str) -> None:
    for rows, cols, n in ((0, 256, 3), (5, 256, 0), (5, 0, 3), (0, 0, 0)):
        w = gg.QuantizedTensor(
            np.zeros(rows * (quantized(format, 1, 256).nbytes if cols else 0), np.uint8), format, (rows, cols)
        )
        for mode in ("int8", "float32"):
            y = w.matmul(np.ones((n, cols), np.float32), activations=mode)
            assert y.shape == (n, rows) and not y.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("format", ["Q4_K", "Q4_0", "Q5_1", "F32"])
def test_what_is_not_finite_stays_in_its_row(format: str, value: float) -> None:
    w, x = quantized(format, 5, 512), bell(12, 512)
    clean = w.matmul(x)
    x[3, 400] = value
    y = w.matmul(x)
    assert not np.isfinite(y[3]).any()
    assert format == "F32" or np.isnan(y[3]).all()
    others = np.arange(12) != 3
    assert np.array_equal(y[others], clean[others])


def test_errors_say_what_does_not_fit() -> None:
    w = quantized("Q4_K", 4, 256)
    with pytest.raises(gg.ShapeError, match=r"\(3, 255\).*\(4, 256\)"):
        w.matmul(bell(3, 255))
    with pytest.raises(gg.ShapeError, match="do not fit"):
        w.matmul(np.float32(1))
    with pytest.raises(gg.ShapeError, match="matmul_id"):
        gg.matmul(bell(2, 3, 4), bell(4))
    with pytest.raises(gg.DTypeError, match="float64"):
        w.matmul(bell(3, 256).astype(np.float64))
    with pytest.raises(gg.DTypeError, match="int64"):
        gg.matmul(np.ones((4, 4), np.int64), bell(3, 4))
    with pytest.raises(gg.UsageError, match="int4"):
        w.matmul(bell(3, 256), activations="int4")
    with pytest.raises(gg.UsageError, match="threads"):
        w.matmul(bell(3, 256), threads=0)
    activations = gg.QuantizedTensor(np.zeros(292, np.uint8), "Q8_K", (1, 256))
    with pytest.raises(gg.DTypeError, match="Q8_K is a format of activations"):
        activations.matmul(bell(3, 256))
    assert not activations.matmul(bell(3, 256), activations="float32").any()


@pytest.mark.parametrize("mode", ["int8", "float32"])
def test_experts_are_products_of_their_own(mode: Any) -> None:
    w = gg.quantize(bell(4, 10, 256), "Q4_K")
    ids = np.random.default_rng(0).integers(0, 4, (9, 3))
    x = bell(9, 3, 256)
    y = gg.matmul_id(w, x, ids, activations=mode)
    shared = gg.matmul_id(w, x[:, 0], ids, activations=mode, threads=2)
    assert y.shape == (9, 3, 10)
    for t in range(9):
        for s in range(3):
            assert np.array_equal(y[t, s], w[ids[t, s]].matmul(x[t, s], activations=mode))
            assert np.array_equal(shared[t, s], w[ids[t, s]].matmul(x[t, 0], activations=mode))
    out = np.empty_like(y)
    assert gg.matmul_id(w, x, ids.astype(np.uint8), activations=mode, out=out) is out and np.array_equal(out, y)


def test_experts_that_do_not_exist() -> None:
    w, x = gg.quantize(bell(4, 10, 256), "Q4_K"), bell(2, 256)
    for bad in (-1, 4):
        with pytest.raises(gg.ShapeError, match="4 experts"):
            gg.matmul_id(w, x, [[0, 1], [bad, 2]])
    with pytest.raises(gg.DTypeError, match="integers"):
        gg.matmul_id(w, x, [[0.0], [1.0]])
    with pytest.raises(gg.ShapeError, match="activations have shape"):
        gg.matmul_id(w, x, [[0, 1, 2]])
    with pytest.raises(gg.ShapeError, match=r"\[experts, rows, K\]"):
        gg.matmul_id(w[0], x, [[0], [0]])
    assert gg.matmul_id(w, x[:0], np.zeros((0, 2), np.int64)).shape == (0, 2, 10)
    assert gg.matmul_id(w, x, np.zeros((2, 0), np.int64)).shape == (2, 0, 10)

"""`QuantizedTensor` as a value: equality, slices, pickles, repr."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from typing import Any

import numpy as np
import pytest

import ggquant as gg


@pytest.fixture
def q() -> gg.QuantizedTensor:
    return gg.quantize(np.random.default_rng(3).standard_normal((4, 6, 512), np.float32), "Q4_K")


def test_data_are_not_copied(q: gg.QuantizedTensor) -> None:
    again = gg.QuantizedTensor(q.data, "q4_k", q.shape)
    assert np.shares_memory(again.data, q.data)
    assert np.shares_memory(q[1:3].data, q.data) and np.shares_memory(q[2].data, q.data)
    flat = gg.QuantizedTensor(q.data.reshape(-1), "Q4_K", (24, 512))
    assert np.shares_memory(flat.data, q.data) and flat.shape == (24, 512)


@pytest.mark.parametrize(
    "key",
    [
        0,
        -1,
        slice(1, 3),
        slice(2, 2),
        slice(None, None, -2),
        (1, 2),
        (slice(None), 3),
        (slice(1, 3), slice(0, 6, 2)),
        ...,
        (..., slice(None)),
        (2, ..., slice(None)),
        (np.int64(1), ...),
        (1, slice(None), slice(None)),
        [0, 2],
        np.array([True, False, True, False]),
        np.ones((4, 6), bool),
    ],
)
def test_slices_are_those_of_the_weights(q: gg.QuantizedTensor, key: Any) -> None:
    part = q[key]
    weights = q.dequantize()[key]
    assert part.shape == weights.shape
    assert np.array_equal(part.dequantize(), weights)


@pytest.mark.parametrize(
    "key", [(0, 0, 0), (..., 0), (..., slice(0, 256)), (0, 0, slice(0, 32)), None, (0, None), (slice(None),) * 4, (9,)]
)
def test_a_row_is_not_cut(q: gg.QuantizedTensor, key: Any) -> None:
    with pytest.raises(IndexError):
        q[key]


def test_a_row_is_a_tensor_that_cannot_be_indexed(q: gg.QuantizedTensor) -> None:
    row = q[0, 0]
    assert row.shape == (512,) and row.ndim == 1
    for key in (0, slice(0, 2), slice(0, 256)):
        with pytest.raises(IndexError):
            row[key]


def test_iteration_goes_over_the_first_axis(q: gg.QuantizedTensor) -> None:
    assert len(q) == 4
    assert [part == q[i] for i, part in enumerate(q)] == [True] * 4


def test_equality_is_of_format_shape_and_bytes(q: gg.QuantizedTensor) -> None:
    assert q == copy.deepcopy(q) and q == copy.copy(q)
    changed = q.data.copy()
    changed[3, 5, -1] ^= 1
    assert q != gg.QuantizedTensor(changed, "Q4_K", q.shape)
    assert q != gg.QuantizedTensor(q.data, "Q4_K", (24, 512))
    zeros = np.zeros(36, np.uint8)
    assert gg.QuantizedTensor(zeros[:18], "Q4_0", (32,)) != gg.QuantizedTensor(zeros[:18], "IQ4_NL", (32,))
    assert q != "Q4_K" and q is not None
    with pytest.raises(TypeError, match="unhashable"):
        hash(q)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(q: gg.QuantizedTensor, protocol: int) -> None:
    for tensor in (q, q[1:3], q[::-2, 1], q[0, 0], gg.quantize(np.zeros((0, 32), np.float32), "Q8_0")):
        again = pickle.loads(pickle.dumps(tensor, protocol))
        assert again == tensor and again.data.flags.c_contiguous
    # A slice does not drag the whole tensor along.
    assert len(pickle.dumps(q[0], protocol)) < q.nbytes / 2


def test_pickles_out_of_band(q: gg.QuantizedTensor) -> None:
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(q, protocol=5, buffer_callback=buffers.append)
    assert len(head) < 1000 and sum(len(b.raw()) for b in buffers) == q.nbytes
    assert pickle.loads(head, buffers=buffers) == q


def double(q: gg.QuantizedTensor) -> gg.QuantizedTensor:
    return gg.quantize(2 * q.dequantize(), q.format)


def fail(q: gg.QuantizedTensor) -> None:
    gg.quantize(np.full((1, 32), np.nan, np.float32), "Q4_0")


def test_travels_between_processes(q: gg.QuantizedTensor) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(double, (q,)) == double(q)
        # So do errors, with what they say.
        with pytest.raises(gg.NonFiniteError, match="row 0, column 0"):
            pool.apply(fail, (q,))


def test_errors_pickle_with_their_facts() -> None:
    with pytest.raises(gg.FileError) as caught:
        gg.open("no/such/file.gguf")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is gg.FileError and str(again) == str(caught.value)
    assert (again.file, again.errno) == ("no/such/file.gguf", 2)


def test_repr(q: gg.QuantizedTensor) -> None:
    assert repr(q) == "QuantizedTensor(Q4_K, shape=(4, 6, 512), 4.5 bits per weight, 6912 bytes)"
    assert "Q4_K" in str(gg.quantize(np.zeros((1, 256)).astype(np.float32), "Q4_K"))


@pytest.mark.parametrize("shape", [(4, 6, 256), (4, 6), (512,), (-4, -6, 512)])
def test_shapes_that_contradict_the_data(q: gg.QuantizedTensor, shape: tuple[int, ...]) -> None:
    with pytest.raises(gg.ShapeError):
        gg.QuantizedTensor(q.data, "Q4_K", shape)
    with pytest.raises(gg.ShapeError):
        gg.dequantize(q.data, "Q4_K", shape)


def test_data_of_another_dtype(q: gg.QuantizedTensor) -> None:
    with pytest.raises(gg.DTypeError, match="uint8, not int8"):
        gg.QuantizedTensor(q.data.view(np.int8), "Q4_K", q.shape)


def test_data_of_any_layout_decode(q: gg.QuantizedTensor) -> None:
    swapped = np.ascontiguousarray(q.data.transpose(1, 0, 2)).transpose(1, 0, 2)
    assert not swapped.flags.c_contiguous
    assert np.array_equal(gg.dequantize(swapped, "Q4_K", q.shape), q.dequantize())
    read_only = q.data.copy()
    read_only.flags.writeable = False
    assert np.array_equal(gg.dequantize(read_only, "Q4_K", q.shape), q.dequantize())

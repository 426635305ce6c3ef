"""`gg.quantize` and `gg.dequantize`: formats, dtypes, layouts, importances, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ggquant as gg

STORED = [f for f in gg.formats() if f.storage]
FLOATS = ("F32", "F16", "BF16")
#: What ggml's ggml_quantize_chunk made of 28 rows, plain and with importances.
GOLDEN = dict(np.load(Path(__file__).parents[1] / "data" / "golden" / "blocks.npz"))
BLOCKS = [name for name in GOLDEN if name.split("/")[0] in {f.name for f in STORED}]

Array = npt.NDArray[Any]


def rows(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def importance(info: gg.FormatInfo, columns: int) -> Array | None:
    return np.arange(1, columns + 1, dtype=np.float32) if info.imatrix == "required" else None


@pytest.mark.parametrize("name", BLOCKS)
def test_the_bytes_of_ggml(name: str) -> None:
    format_, _, weighted = name.partition("/")
    q = gg.quantize(GOLDEN["x"], format_, imatrix=GOLDEN["imatrix"] if weighted else None)
    assert q.data.dtype == np.uint8
    assert np.array_equal(q.data, GOLDEN[name])


@pytest.mark.parametrize("info", STORED, ids=lambda f: f.name)
def test_sizes_and_round_trip(info: gg.FormatInfo) -> None:
    w = rows(2, 3, 512)
    q = gg.quantize(w, info.name.lower(), imatrix=importance(info, 512))
    assert (q.format, q.shape, q.ndim, q.size) == (info.name, (2, 3, 512), 3, w.size)
    assert q.data.shape == (2, 3, 512 // info.block_len * info.block_bytes)
    assert q.nbytes == q.data.nbytes == q.bits_per_weight * w.size / 8
    back = q.dequantize()
    assert back.shape == w.shape and back.dtype == np.float32
    assert np.array_equal(back, gg.dequantize(q.data, info.name, q.shape))
    # Block formats beat the trivial answer, all zeros, by far; one bit a weight still removes a third.
    assert np.mean((back - w) ** 2) < 0.7 * np.mean(w**2)


@pytest.mark.parametrize("format_", FLOATS)
def test_plain_floats_are_numpys(format_: str) -> None:
    w = rows(5, 7)
    kind = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}[format_]
    q = gg.quantize(w, format_)
    assert np.array_equal(q.data, w.astype(kind).view(np.uint8).reshape(5, -1))
    assert np.array_equal(q.dequantize(), w.astype(kind).astype(np.float32))


def test_arrays_of_the_callers_are_filled_in_place() -> None:
    w = rows(4, 256)
    q = gg.quantize(w, "Q4_K")
    blocks = np.full((4, q.data.shape[1]), 90, np.uint8)
    into = gg.quantize(w, "Q4_K", out=blocks)
    assert into == q
    assert np.shares_memory(into.data, blocks)
    weights = np.empty_like(w)
    assert np.shares_memory(gg.dequantize(blocks, "Q4_K", w.shape, out=weights), weights)
    assert np.array_equal(weights, q.dequantize())
    for wrong in (blocks[:, :-1], blocks[:-1], blocks[:, ::-1]):
        with pytest.raises(gg.ShapeError, match="out"):
            gg.quantize(w, "Q4_K", out=wrong)
    with pytest.raises(gg.DTypeError, match="uint8"):
        gg.quantize(w, "Q4_K", out=weights)
    with pytest.raises(gg.DTypeError, match="float32"):
        gg.dequantize(blocks, "Q4_K", w.shape, dtype="float16", out=weights)
    frozen = weights.copy()
    frozen.flags.writeable = False
    with pytest.raises(gg.ShapeError, match="writable"):
        gg.dequantize(blocks, "Q4_K", w.shape, out=frozen)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("format_", ["Q4_K", "Q8_0", "IQ4_XS", "F32", "F16", "BF16"])
def test_half_precision_input_means_its_float32_values(kind: npt.DTypeLike, format_: str) -> None:
    w = rows(4, 256).astype(kind)
    assert gg.quantize(w, format_) == gg.quantize(w.astype(np.float32), format_)


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "bfloat16", np.float16, np.dtype("float32"), ml_dtypes.bfloat16]
)
def test_decoded_dtypes(dtype: npt.DTypeLike) -> None:
    q = gg.quantize(rows(3, 64), "Q5_1")
    exact, got = q.dequantize(), q.dequantize(dtype)
    assert got.dtype == np.dtype(dtype)
    assert np.array_equal(got, exact.astype(got.dtype))


def layouts() -> dict[str, Array]:
    w = rows(6, 8, 256)
    swapped = w.astype(">f4")
    odd = np.frombuffer(b"\0" + w.tobytes(), np.uint8)[1:].view(np.float32).reshape(w.shape)
    read_only = w.copy()
    read_only.flags.writeable = False
    return {
        "transposed": w.transpose(1, 0, 2),
        "fortran": np.asfortranarray(w),
        "strided rows": w[::2, 1::3],
        "reversed": w[::-1, ::-1, ::-1],
        "cut rows": w[..., 64:192],
        "strided columns": w[..., ::2],
        "broadcast": np.broadcast_to(w[0], (3, 8, 256)),
        "byte-swapped": swapped,
        "byte-swapped half": w.astype(">f2"),
        "unaligned": odd,
        "read-only": read_only,
        "masked rows": w[[0, 0, 5]],
    }


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("format_", ["Q4_0", "F32", "BF16"])
def test_any_layout_in_memory(layout: str, format_: str) -> None:
    w = layouts()[layout]
    plain = np.array(w.tolist(), dtype=np.float32)
    q = gg.quantize(w, format_)
    assert q.shape == w.shape
    assert q == gg.quantize(plain, format_)


def test_arrays_of_other_libraries_come_through_numpy() -> None:
    w = rows(2, 32)

    class Foreign:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            return w

    assert gg.quantize(Foreign(), "Q8_0", imatrix=None) == gg.quantize(w, "Q8_0")


def test_torch_tensors_are_detached_and_bfloat16_goes_by_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    w = rows(2, 32).astype(ml_dtypes.bfloat16)
    torch = ModuleType("torch")

    class Tensor:
        def __init__(self, array: Array, dtype: str, grad: bool) -> None:
            self.array, self.dtype, self.grad = array, dtype, grad

        def detach(self) -> Tensor:
            return Tensor(self.array, self.dtype, False)

        def cpu(self) -> Tensor:
            return self

        def view(self, dtype: str) -> Tensor:
            return Tensor(self.array.view(np.int16), dtype, self.grad)

        def numpy(self) -> Array:
            if self.grad or self.dtype == "bfloat16":
                raise TypeError("as torch refuses it")
            return self.array

    vars(torch).update(Tensor=Tensor, bfloat16="bfloat16", int16="int16")
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert gg.quantize(Tensor(w, "bfloat16", True), "Q8_0") == gg.quantize(w, "Q8_0")
    single = w.astype(np.float32)
    assert gg.quantize(Tensor(single, "float32", True), "Q8_0") == gg.quantize(w, "Q8_0")
    with pytest.raises(gg.DTypeError, match="float64"):
        gg.quantize(Tensor(single.astype(float), "float64", False), "Q8_0")


@pytest.mark.parametrize("shape", [(32,), (0, 32), (3, 0, 32), (0,), (4, 0), (1, 1, 1, 1, 32)])
def test_unusual_shapes(shape: tuple[int, ...]) -> None:
    w = rows(*shape)
    q = gg.quantize(w, "Q4_0")
    assert q.shape == shape and q.dequantize().shape == shape
    assert q.nbytes == w.size // 32 * 18
    assert gg.quantize(w, "F16").dequantize().shape == shape


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_do_not_change_bytes(threads: int) -> None:
    w = rows(64, 512)
    for format_ in ("Q4_K", "Q5_0", "IQ4_NL"):
        for imatrix in (None, np.abs(rows(512)) + 0.1):
            q = gg.quantize(w, format_, imatrix=imatrix, threads=threads)
            assert q == gg.quantize(w, format_, imatrix=imatrix)
            assert np.array_equal(q.dequantize(threads=threads), q.dequantize())


def test_each_expert_has_its_own_importances() -> None:
    w = rows(4, 5, 256)
    per_expert = np.exp(rows(4, 256, seed=1))
    q = gg.quantize(w, "Q4_K", imatrix=per_expert)
    for expert in range(4):
        assert q[expert] == gg.quantize(w[expert], "Q4_K", imatrix=per_expert[expert])
    shared = gg.quantize(w, "Q4_K", imatrix=per_expert[0])
    assert shared[0] == q[0] and shared[1] != q[1]


@pytest.mark.parametrize("kind", [np.float64, np.float16, ml_dtypes.bfloat16, np.int32])
def test_importances_of_any_number_type(kind: npt.DTypeLike) -> None:
    w, weights = rows(2, 32), np.arange(32).astype(kind)
    assert gg.quantize(w, "Q4_0", imatrix=weights) == gg.quantize(w, "Q4_0", imatrix=np.arange(32, dtype=np.float32))


def test_formats_that_ignore_importances() -> None:
    w, weights = rows(4, 512), np.exp(rows(512, seed=2))
    for info in STORED:
        if info.imatrix == "ignored":
            assert gg.quantize(w, info.name, imatrix=weights) == gg.quantize(w, info.name)


def test_an_empty_tensor_of_experts() -> None:
    assert gg.quantize(np.zeros((0, 4, 32), np.float32), "Q4_0", imatrix=np.zeros((0, 32))).shape == (0, 4, 32)


# --- errors


@pytest.mark.parametrize("format_", ["Q4_K_M", "q9", "", "Q4_K "])
def test_unknown_formats(format_: str) -> None:
    with pytest.raises(gg.UsageError, match="unknown block format") as caught:
        gg.quantize(rows(1, 256), format_)
    assert "Q4_K" in str(caught.value)
    with pytest.raises(gg.UsageError, match="unknown block format"):
        gg.dequantize(np.zeros(144, np.uint8), format_, (256,))


@pytest.mark.parametrize("kind", [np.float64, np.int8, np.bool_, np.complex64, ml_dtypes.float8_e4m3fn])
def test_dtypes_that_are_no_weights(kind: npt.DTypeLike) -> None:
    with pytest.raises(gg.DTypeError, match=f"{np.dtype(kind).name}.*float32"):
        gg.quantize(np.zeros((1, 32), kind), "Q4_0")
    with pytest.raises(gg.DTypeError):
        gg.quantize(rows(1, 32), "F32").dequantize(kind)


def test_formats_of_activations_are_not_stored() -> None:
    for info in gg.formats():
        if not info.storage:
            with pytest.raises(gg.DTypeError, match=info.name):
                gg.quantize(rows(1, 256), info.name)


@pytest.mark.parametrize(("format_", "columns", "block"), [("Q4_0", 33, 32), ("Q4_K", 128, 256), ("NVFP4", 32, 64)])
def test_rows_that_do_not_divide_into_blocks(format_: str, columns: int, block: int) -> None:
    with pytest.raises(gg.ShapeError, match=rf"rows of {columns} .*blocks of {block} \({format_}\)"):
        gg.quantize(rows(2, columns), format_)
    with pytest.raises(gg.ShapeError, match=rf"rows of {columns} .*blocks of {block} \({format_}\)"):
        gg.dequantize(np.zeros(18, np.uint8), format_, (columns,))


def test_scalars_are_not_rows() -> None:
    with pytest.raises(gg.ShapeError, match="scalar"):
        gg.quantize(np.float32(1), "F32")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16], ids=["f32", "f16", "bf16"])
@pytest.mark.parametrize("threads", [1, 4])
def test_weights_that_are_not_finite(value: float, kind: npt.DTypeLike, threads: int) -> None:
    w = rows(3, 4, 256).astype(kind)
    w[1, 2, 77] = value
    w[2, 0, 0] = value
    for info in STORED:
        if info.name in FLOATS:
            continue
        with pytest.raises(gg.NonFiniteError, match="row 6, column 77 is"):
            gg.quantize(w, info.name, imatrix=importance(info, 256), threads=threads)


def test_formats_that_need_importances() -> None:
    required = [info.name for info in STORED if info.imatrix == "required"]
    assert sorted(required) == ["IQ1_S", "IQ2_XS", "IQ2_XXS"]
    for name in required:
        with pytest.raises(gg.ImatrixError, match=name):
            gg.quantize(rows(1, 256), name)


@pytest.mark.parametrize("shape", [(31,), (32, 1), (2, 32), (4, 32), (3, 4, 32), ()])
def test_importances_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(gg.ImatrixError, match=r"\(32,\) or \(3, 32\)"):
        gg.quantize(rows(3, 4, 32), "Q4_0", imatrix=np.ones(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_importances_that_are_no_importances(value: float) -> None:
    weights = np.ones(32, np.float32)
    weights[9] = value
    with pytest.raises(gg.ImatrixError, match="column 9"):
        gg.quantize(rows(2, 32), "Q4_0", imatrix=weights)
    with pytest.raises(gg.ImatrixError):
        gg.quantize(rows(2, 32), "Q4_0", imatrix=["a"] * 32)


@pytest.mark.parametrize("threads", [0, -1])
def test_numbers_of_threads(threads: int) -> None:
    q = gg.quantize(rows(1, 32), "Q4_0")
    with pytest.raises(gg.UsageError, match="threads"):
        gg.quantize(rows(1, 32), "Q4_0", threads=threads)
    with pytest.raises(gg.UsageError, match="threads"):
        q.dequantize(threads=threads)


def test_every_error_is_one_of_ours_and_a_usual_one() -> None:
    for name, also in {"ShapeError": ValueError, "DTypeError": TypeError, "FileError": OSError}.items():
        assert issubclass(getattr(gg, name), gg.Error) and issubclass(getattr(gg, name), also)


# --- properties

SIZES = {f.name: f.block_len for f in STORED}
#: Largest error of a weight, relative to the largest weight of its block, where rounding alone makes the error.
BOUNDS = {"F32": 0.0, "BF16": 2**-8, "Q8_0": 0.5 / 127 + 2**-11, "Q4_0": 1 / 7, "Q5_0": 1 / 15, "F16": 2**-10}


@settings(max_examples=30, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(BOUNDS)))
def test_error_bounds(data: st.DataObject, name: str) -> None:
    shape = (data.draw(st.integers(1, 3)), 32 * data.draw(st.integers(1, 4)))
    values = st.floats(-1000, 1000, width=32, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 0.125)
    w = data.draw(hnp.arrays(np.float32, shape, elements=values))
    back = gg.quantize(w, name).dequantize()
    largest = np.abs(w).reshape(-1, 32).max(axis=1, keepdims=True)
    assert np.all(np.abs(back - w).reshape(-1, 32) <= BOUNDS[name] * largest * 1.001)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), info=st.sampled_from([f for f in STORED if f.imatrix != "required"]))
def test_rows_are_encoded_alone(data: st.DataObject, info: gg.FormatInfo) -> None:
    columns = info.block_len * data.draw(st.integers(1, 2)) if info.block_len > 1 else data.draw(st.integers(0, 40))
    shape = (*data.draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4)), columns)
    w = rows(*shape, seed=data.draw(st.integers(0, 99))) * np.float32(2.0) ** data.draw(st.integers(-30, 12))
    q = gg.quantize(w, info.name)
    assert q.shape == shape and q.dequantize().shape == shape
    if len(shape) > 1:
        index = data.draw(hnp.basic_indices(shape[:-1], allow_ellipsis=False))
        assert q[index] == gg.quantize(w[index], info.name)
        assert np.array_equal(q[index].dequantize(), q.dequantize()[index])

"""Arrays in and out of block formats."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.errors import DTypeError, ImatrixError, ShapeError, UsageError
from ggquant.registry import format_info

if TYPE_CHECKING:
    from ggquant.product import Activations

_FLOAT_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class QuantizedTensor:
    """A tensor in a block format.

    Attributes:
        data: uint8 array of shape `[..., row_bytes]`, C-contiguous in its last axis.
        format: name of the block format, for example `"Q4_K"`.
        shape: shape of the weights, `[..., K]`.

    Indexing selects along the leading axes (`q[3]`, `q[10:20]`) and never copies; the last axis stays whole, since a
    block cannot be cut. Tensors compare equal when format, shape and bytes are equal, and they pickle.
    """

    __slots__ = ("data", "format", "shape")

    data: npt.NDArray[np.uint8]
    format: str
    shape: tuple[int, ...]

    def __init__(self, data: npt.ArrayLike, format: str, shape: tuple[int, ...]) -> None:
        """Wraps encoded `data` (uint8, any shape with the right number of bytes) without copying it.

        Raises:
            UsageError: unknown format.
            ShapeError: `shape` does not divide into blocks, or `data` has another length than `shape` needs.
        """
        info = format_info(format)
        shape = tuple(int(n) for n in shape)
        if not shape or any(n < 0 for n in shape):
            raise ShapeError(f"shape {shape} is not the shape of rows of weights")
        row_bytes = info.row_bytes(shape[-1])
        if row_bytes is None:
            raise ShapeError(f"rows of {shape[-1]} weights do not divide into blocks of {info.block_len} ({info.name})")
        array = np.asarray(data)
        if array.dtype != np.uint8:
            raise DTypeError(f"encoded data must be uint8, not {array.dtype}")
        want = (*shape[:-1], row_bytes)
        if array.size != _product(want):
            raise ShapeError(f"{info.name} of shape {shape} takes {_product(want)} bytes, but data has {array.size}")
        self.data = array.reshape(want)
        self.format = info.name
        self.shape = shape

    @property
    def ndim(self) -> int:
        """Number of axes of the weights."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of weights."""
        return _product(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of encoded bytes."""
        return int(self.data.nbytes)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits per weight, scales included."""
        return format_info(self.format).bits_per_weight

    def dequantize(self, dtype: npt.DTypeLike = "float32", *, threads: int | None = None) -> npt.NDArray[Any]:
        """The weights as an array of `shape`.

        Args:
            dtype: `"float32"` (the exact decoded values), `"float16"` or `"bfloat16"` (those, rounded to nearest).
            threads: number of threads, by default one per core. It does not change the result.
        """
        return dequantize(self.data, self.format, self.shape, dtype=dtype, threads=threads)

    def matmul(
        self,
        x: npt.ArrayLike,
        *,
        activations: Activations = "int8",
        out: npt.NDArray[np.float32] | None = None,
        threads: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """`x @ self.T`, without decoding the weights into memory: see `ggquant.matmul`.

        Args:
            x: activations of shape `[..., K]`, float32, float16 or bfloat16.
            activations: `"int8"` (rounded a block at a time, as ggml does) or `"float32"` (as they are).
            out: array for the result.
            threads: number of threads, by default one per core. It does not change the result.

        Returns:
            float32 of shape `[..., rows]`.
        """
        from ggquant.product import matmul

        return matmul(self, x, activations=activations, out=out, threads=threads)

    @property
    def T(self) -> Transposed:
        """The right-hand side of `x @ q.T`."""
        return Transposed(self)

    def __getitem__(self, key: Any) -> QuantizedTensor:
        keys = key if isinstance(key, tuple) else (key,)
        if any(k is None or isinstance(k, (bool, np.bool_)) for k in keys):
            raise IndexError("a new axis cannot be added to a quantized tensor")
        anchored = any(k is Ellipsis for k in keys) and keys[-1] is not Ellipsis
        reaches_last = anchored or sum(_axes(k) for k in keys) >= self.ndim
        if reaches_last and not (isinstance(keys[-1], slice) and keys[-1] == slice(None)):
            raise IndexError("a row cannot be cut: index only the axes before the last one")
        data = self.data[key]
        return QuantizedTensor(data, self.format, (*data.shape[:-1], self.shape[-1]))

    def __len__(self) -> int:
        return self.shape[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantizedTensor):
            return NotImplemented
        same_kind = self.format == other.format and self.shape == other.shape
        return same_kind and np.array_equal(self.data, other.data)

    def __reduce__(self) -> tuple[Any, ...]:
        return (QuantizedTensor, (np.ascontiguousarray(self.data), self.format, self.shape))

    def __repr__(self) -> str:
        return (
            f"QuantizedTensor({self.format}, shape={self.shape}, {self.bits_per_weight:.4g} bits per weight, "
            f"{self.nbytes} bytes)"
        )


class Transposed:
    """A quantized matrix as the right-hand side of a product: `x @ q.T` is `q.matmul(x)`."""

    __slots__ = ("T",)

    #: Makes numpy leave `x @ q.T` to this class.
    __array_ufunc__: None = None

    T: QuantizedTensor

    def __init__(self, tensor: QuantizedTensor) -> None:
        """Wraps `tensor`, which `T` gives back."""
        self.T = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights, axes in reverse."""
        return self.T.shape[::-1]

    def __rmatmul__(self, x: npt.ArrayLike) -> npt.NDArray[np.float32]:
        return self.T.matmul(x)

    def __repr__(self) -> str:
        return f"{self.T!r}.T"


def quantize(
    w: npt.ArrayLike,
    format: str,
    imatrix: npt.ArrayLike | None = None,
    threads: int | None = None,
    *,
    out: npt.NDArray[np.uint8] | None = None,
) -> QuantizedTensor:
    """Encodes weights, with the bytes that ggml's x86-64 build gives.

    Args:
        w: weights of shape `[..., K]`, float32, float16 or bfloat16 (`ml_dtypes`, or a CPU torch tensor). K must be a
            multiple of the format's block length.
        format: name of a block format (`"Q4_K"`), in any case.
        imatrix: importance of each column, shape `[K]`; or `[E, K]` for `w` of shape `[E, rows, K]`, one row an expert.
            Non-negative and finite.
        threads: number of threads, by default one per core. It does not change the result.
        out: uint8, contiguous and writable, as many bytes as `w` takes in `format`: where the blocks go, by default a
            new array. If encoding fails, what it holds is left open.

    Raises:
        UsageError: unknown format.
        DTypeError: `w` is not one of the three float types, or `out` is not uint8.
        ShapeError: K is not a multiple of the block length, or `out` has another size or is not contiguous and
            writable.
        NonFiniteError: a weight is NaN or infinite; the message gives row and column.
        ImatrixError: the format needs an importance matrix, or it has the wrong shape or unusable values.
    """
    info = format_info(format)
    array = _as_array(w)
    dtype = _FLOAT_DTYPES.get(array.dtype.name)
    if dtype is None:
        raise DTypeError(f"cannot encode weights of dtype {array.dtype}; convert them to float32, float16 or bfloat16")
    if array.ndim == 0:
        raise ShapeError("cannot encode a scalar: weights are rows, [..., K]")
    if not info.storage:
        raise DTypeError(f"{info.name} is a format of activations; weights are not stored in it")
    row_len = array.shape[-1]
    flat = np.ascontiguousarray(array).reshape(-1)
    if not flat.flags.aligned or not flat.dtype.isnative:
        flat = flat.astype(flat.dtype.newbyteorder("="), copy=True)
    if dtype != "F32":
        flat = flat.view(np.uint16)
    rows = _product(array.shape[:-1])
    importance, rows_per_expert = _as_importance(imatrix, array.shape, rows)
    workers = _threads(threads)
    if not flat.size:
        return QuantizedTensor(np.empty(0, np.uint8) if out is None else out, info.name, array.shape)
    row_bytes = info.row_bytes(row_len)
    target = None if out is None or row_bytes is None else _as_target(out, np.uint8, rows * row_bytes)
    data = _native.encode(info.name, flat, dtype, row_len, importance, rows_per_expert, workers, target)
    return QuantizedTensor(data, info.name, array.shape)


def dequantize(
    data: npt.ArrayLike,
    format: str,
    shape: tuple[int, ...],
    *,
    dtype: npt.DTypeLike = "float32",
    threads: int | None = None,
    out: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[Any]:
    """Decodes encoded data.

    Args:
        data: uint8, as many bytes as `shape` takes in `format`.
        format: name of the block format.
        shape: shape of the weights, `[..., K]`.
        dtype: `"float32"` (exact), `"float16"` or `"bfloat16"` (rounded to nearest even).
        threads: number of threads, by default one per core.
        out: float32, contiguous and writable, as many weights as `shape` has: where they go if `dtype` is float32, by
            default a new array.

    Returns:
        `out`, or a new array, of `shape` and `dtype`.

    Raises:
        UsageError, ShapeError, DTypeError: as for `QuantizedTensor`, and if `out` does not fit.
    """
    target = _float_dtype(dtype)
    if out is not None and target != np.float32:
        raise DTypeError(f"out takes float32, and {target} was asked for")
    tensor = QuantizedTensor(data, format, shape)
    flat = np.ascontiguousarray(tensor.data).reshape(-1)
    workers = _threads(threads)
    into = None if out is None else _as_target(out, np.float32, _product(tensor.shape))
    if not flat.size:
        return np.empty(tensor.shape, target) if out is None else out.reshape(tensor.shape)
    weights = _native.decode(tensor.format, flat, tensor.shape[-1], workers, into).reshape(tensor.shape)
    return weights if target == np.float32 else weights.astype(target)


def _as_target(out: npt.NDArray[Any], dtype: npt.DTypeLike, size: int) -> npt.NDArray[Any]:
    """The caller's array, flat and without a copy, so that what is written shows there."""
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        raise DTypeError(f"out must be a numpy array of {np.dtype(dtype)}")
    if out.size != size:
        raise ShapeError(f"out has {out.size} elements, and {size} are written")
    flags = out.flags
    if not (flags.c_contiguous and flags.writeable and flags.aligned):
        raise ShapeError("out must be contiguous, aligned and writable")
    return out.reshape(-1)


def _float_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    if isinstance(dtype, str) and dtype == "bfloat16":
        import ml_dtypes

        brain: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return brain
    resolved = np.dtype(dtype)
    if resolved.name not in _FLOAT_DTYPES:
        raise DTypeError(f"cannot decode to {resolved}; choose float32, float16 or bfloat16")
    return resolved


def _as_array(w: npt.ArrayLike) -> npt.NDArray[Any]:
    """`w` as a numpy array; a torch tensor's bfloat16 goes through its bits, since numpy has no such type."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(w, torch.Tensor):
        tensor = w.detach().cpu()
        if tensor.dtype == torch.bfloat16:
            import ml_dtypes

            bits: npt.NDArray[Any] = tensor.view(torch.int16).numpy()
            return bits.view(ml_dtypes.bfloat16)
        return np.asarray(tensor.numpy())
    return np.asarray(w)


def _as_importance(
    imatrix: npt.ArrayLike | None, shape: tuple[int, ...], rows: int
) -> tuple[npt.NDArray[np.float32] | None, int]:
    """A flat importance array and how many rows of weights share each row of it."""
    if imatrix is None:
        return None, max(rows, 1)
    array = _as_array(imatrix)
    if array.dtype.kind not in "fiuV":
        raise ImatrixError(f"importance matrix: dtype {array.dtype} is not a number")
    experts = 1
    if array.ndim == 2 and len(shape) >= 3 and array.shape == (shape[0], shape[-1]):
        experts = shape[0]
    elif array.shape != (shape[-1],):
        wanted = f"({shape[-1]},)" + (f" or ({shape[0]}, {shape[-1]})" if len(shape) >= 3 else "")
        raise ImatrixError(
            f"importance matrix: shape {array.shape} does not fit weights of shape {shape}; give {wanted}"
        )
    flat = np.ascontiguousarray(array, dtype=np.float32).reshape(-1)
    return flat, max(rows // max(experts, 1), 1)


def _axes(key: Any) -> int:
    """How many axes one part of an index selects from: a mask from as many as it has, an ellipsis from none."""
    if key is Ellipsis:
        return 0
    if isinstance(key, (list, np.ndarray)):
        array = np.asarray(key)
        return array.ndim if array.dtype == np.bool_ else 1
    return 1


def _threads(threads: int | None) -> int | None:
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    return threads


def _product(numbers: tuple[int, ...]) -> int:
    result = 1
    for n in numbers:
        result *= n
    return result

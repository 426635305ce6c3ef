"""Products of activations with weights that stay in their blocks."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.errors import DTypeError, ShapeError, UsageError
from ggquant.tensor import _FLOAT_DTYPES, QuantizedTensor, _as_array, _threads

#: How activations enter a product, see `matmul`.
Activations: TypeAlias = Literal["int8", "float32"]


def matmul(
    w: QuantizedTensor | npt.ArrayLike,
    x: npt.ArrayLike,
    *,
    activations: Activations = "int8",
    out: npt.NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> npt.NDArray[np.float32]:
    """`x @ w.T`, without decoding `w` into memory.

    A row of the result depends on its own row of `x` and on `w` alone: it is the same, bit for bit, whatever else is in
    the batch, for a slice of `w` as for the whole, with any number of threads and on any instruction set.

    Args:
        w: weights of shape `[rows, K]`, in blocks, or as an array of float32, float16 or bfloat16.
        x: activations of shape `[..., K]`, float32, float16 or bfloat16.
        activations: `"int8"` rounds each block of activations to 8 bits as ggml does (Q8_K for k- and i-quants, Q8_0 or
            Q8_1 for the others), so that the result is ggml's up to the order of summation. `"float32"` multiplies the
            exact decoded weights with `x` as it is, for calibration and evaluation. Weights that are floats are
            multiplied in float32 in either case.
        out: array for the result, float32, C-contiguous, `[..., rows]`. It may share memory with `x` or `w`, which
            are then copied first.
        threads: number of threads, by default one per core. It does not change the result.

    Returns:
        float32 of shape `[..., rows]`: `out` if it was given. NaN and infinite activations follow IEEE rules with
        `"float32"`; with `"int8"` all results of a row that contains one are NaN.

    Raises:
        ShapeError: the shapes of `w`, `x` and `out` do not fit.
        DTypeError: a type other than those above, or a format of activations (Q8_1, Q8_K) with `"int8"`.
        UsageError: unknown `activations`, zero threads, or an `out` that cannot be written to.
    """
    weights = _as_weights(w)
    if weights.ndim != 2:
        hint = "; index one matrix, or use matmul_id for experts" if weights.ndim > 2 else ""
        raise ShapeError(f"weights have shape {weights.shape}, not [rows, K]{hint}")
    rows, cols = weights.shape
    array = _as_activations(x)
    if array.ndim == 0 or array.shape[-1] != cols:
        raise ShapeError(f"activations of shape {array.shape} do not fit weights of shape {weights.shape}")
    _check_mode(weights, activations)
    result = _as_result(out, (*array.shape[:-1], rows))
    data, flat = _apart(result, _flat(weights.data), _widened(array))
    if result.size:
        target = result.reshape(-1)
        _native.matmul(weights.format, data, rows, cols, flat, activations, target, _threads(threads))
    return result


def matmul_id(
    w: QuantizedTensor | npt.ArrayLike,
    x: npt.ArrayLike,
    ids: npt.ArrayLike,
    *,
    activations: Activations = "int8",
    out: npt.NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> npt.NDArray[np.float32]:
    """Products with the matrices that each token chose, as mixture-of-experts layers need them.

    Row `[t, s]` of the result is `matmul(w[ids[t, s]], x[t, s])`, or with `x[t]` if all slots of a token share their
    activations.

    Args:
        w: weights of all experts, shape `[experts, rows, K]`, in blocks or as an array.
        x: activations of shape `[tokens, slots, K]`, or `[tokens, K]` to be shared by the slots.
        ids: chosen experts, integers of shape `[tokens, slots]`.
        activations: as for `matmul`.
        out: as for `matmul`, of shape `[tokens, slots, rows]`.
        threads: as for `matmul`.

    Returns:
        float32 of shape `[tokens, slots, rows]`.

    Raises:
        ShapeError: shapes do not fit, or an id is not that of an expert.
        DTypeError, UsageError: as for `matmul`; ids that are not integers.
    """
    weights = _as_weights(w)
    if weights.ndim != 3:
        raise ShapeError(f"weights have shape {weights.shape}, not [experts, rows, K]")
    experts, rows, cols = weights.shape
    chosen = np.asarray(ids)
    if chosen.dtype.kind not in "iu":
        raise DTypeError(f"ids of experts must be integers, not {chosen.dtype}")
    if chosen.ndim != 2:
        raise ShapeError(f"ids have shape {chosen.shape}, not [tokens, slots]")
    array = _as_activations(x)
    if array.shape not in ((chosen.shape[0], cols), (*chosen.shape, cols)):
        wanted = f"[{chosen.shape[0]}, {cols}] or [{chosen.shape[0]}, {chosen.shape[1]}, {cols}]"
        raise ShapeError(f"activations have shape {array.shape}, but ids and weights need {wanted}")
    if chosen.size and (int(chosen.min()) < 0 or int(chosen.max()) >= experts):
        raise ShapeError(f"ids reach from {chosen.min()} to {chosen.max()}, but there are {experts} experts")
    _check_mode(weights, activations)
    result = _as_result(out, (*chosen.shape, rows))
    data, flat = _apart(result, _flat(weights.data), _widened(array))
    if result.size:
        numbers = np.ascontiguousarray(chosen, np.uint32).reshape(-1)
        target = result.reshape(-1)
        slots = chosen.shape[1]
        workers = _threads(threads)
        _native.matmul_id(weights.format, data, experts, rows, cols, flat, numbers, slots, activations, target, workers)
    return result


def _as_weights(w: QuantizedTensor | npt.ArrayLike) -> QuantizedTensor:
    """Weights as blocks; floats are blocks of one."""
    if isinstance(w, QuantizedTensor):
        return w
    array = _as_array(w)
    format = _FLOAT_DTYPES.get(array.dtype.name)
    if format is None:
        raise DTypeError(
            f"cannot multiply weights of dtype {array.dtype}; convert them to float32, float16 or bfloat16"
        )
    if array.ndim == 0:
        raise ShapeError("weights are a scalar, not [rows, K]")
    flat = _native_order(np.ascontiguousarray(array).reshape(-1))
    return QuantizedTensor(flat.view(np.uint8), format, array.shape)


def _as_activations(x: npt.ArrayLike) -> npt.NDArray[Any]:
    array = _as_array(x)
    if array.dtype.name not in _FLOAT_DTYPES:
        raise DTypeError(
            f"cannot multiply activations of dtype {array.dtype}; convert them to float32, float16 or bfloat16"
        )
    return array


def _check_mode(weights: QuantizedTensor, activations: str) -> None:
    if activations not in ("int8", "float32"):
        raise UsageError(f"activations are 'int8' or 'float32', not {activations!r}")
    if activations == "int8" and weights.format in ("Q8_1", "Q8_K"):
        raise DTypeError(f"{weights.format} is a format of activations; as weights it is multiplied in float32 only")


def _as_result(out: npt.NDArray[np.float32] | None, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if out is None:
        return np.empty(shape, np.float32)
    if not isinstance(out, np.ndarray) or out.dtype != np.float32:
        raise DTypeError(f"out must be a float32 array, not {getattr(out, 'dtype', type(out).__name__)}")
    if out.shape != shape:
        raise ShapeError(f"out has shape {out.shape}, but the result has {shape}")
    if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned and out.dtype.isnative):
        raise UsageError("out must be C-contiguous, aligned, writeable and of native byte order")
    return out


def _native_order(flat: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if flat.flags.aligned and flat.dtype.isnative:
        return flat
    return flat.astype(flat.dtype.newbyteorder("="), copy=True)


def _flat(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(data).reshape(-1)


def _widened(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return _native_order(np.ascontiguousarray(array, dtype=np.float32).reshape(-1))


def _apart(
    result: npt.NDArray[np.float32], data: npt.NDArray[np.uint8], x: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Weights and activations, copied if they may lie where the result is to be written."""
    return (
        data.copy() if np.may_share_memory(result, data) else data,
        x.copy() if np.may_share_memory(result, x) else x,
    )


__all__ = ["Activations", "matmul", "matmul_id"]

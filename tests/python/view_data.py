"""Tensor data of a plan, by numpy: what the writer must store in the intermediate type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ggquant.model import SourceTensor, View
from ggquant.native_plan import packed_values

_TYPES = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "U8": np.uint8,
}


def walk(view: View) -> npt.NDArray[Any]:
    """The elements of a view, in its shape."""
    kind = np.dtype(_TYPES[view.dtype])
    span = view.start + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)) + 1
    data = np.frombuffer(Path(view.file).read_bytes(), kind, count=span, offset=view.offset)
    strides = [s * kind.itemsize for s in view.strides]
    return np.lib.stride_tricks.as_strided(data[view.start :], view.shape, strides, writeable=False)


def tensor_data(tensor: SourceTensor) -> bytes:
    """The tensor's bytes in its intermediate type."""
    if tensor.inline is not None:
        return tensor.inline
    if tensor.dtype == "MXFP4":
        codes, scales = (walk(view) for view in tensor.views)
        codes = codes.reshape(-1, 16)
        elements = np.empty((len(codes), 32), np.uint8)
        elements[:, 0::2], elements[:, 1::2] = codes & 15, codes >> 4
        packed = elements[:, :16] | elements[:, 16:] << 4
        return np.concatenate([scales.reshape(-1, 1), packed], axis=1).tobytes()
    values = np.concatenate([_values(view) for view in tensor.views])
    assert values.size == tensor.elements
    for name, constant in tensor.ops:
        assert name in ("add", "round_f16")
        values = values + np.float32(constant) if name == "add" else values.astype(np.float16).astype(np.float32)
    return values.astype(_TYPES[tensor.dtype]).tobytes()


def _values(view: View) -> npt.NDArray[np.float32]:
    """The values of a view, flat; packed ones as the native reader unpacks them."""
    if view.packed is not None:
        return packed_values(view, 1)
    return walk(view).astype(np.float32).reshape(-1)

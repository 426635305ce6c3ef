"""The block functions of ggml-base, through ctypes: the library that llama-cpp-python has built."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt


class _TypeTraits(ctypes.Structure):
    """The leading fields of `struct ggml_type_traits`."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block_len", ctypes.c_int64),
        ("block_len_interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


def _load() -> ctypes.CDLL:
    # The variable is llama-cpp-python's own: the folder of another build of the libraries.
    folder = os.environ.get("LLAMA_CPP_LIB_PATH") or Path(llama_cpp.__file__).parent / "lib"
    library = ctypes.CDLL(str(Path(folder) / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    library.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    library.ggml_get_type_traits.argtypes = [ctypes.c_int]
    return library


_LIBRARY = _load()


def encode(
    ggml_type: int, rows: npt.NDArray[np.float32], imatrix: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.uint8]:
    """`rows` [n, K] in blocks of `ggml_type`, uint8 [n, row bytes]."""
    n, row_len = rows.shape
    traits = _LIBRARY.ggml_get_type_traits(ggml_type).contents
    assert row_len % traits.block_len == 0
    out = np.zeros((n, row_len // traits.block_len * traits.block_bytes), np.uint8)
    assert rows.flags.c_contiguous and rows.dtype == np.float32
    importances = None if imatrix is None else imatrix.ctypes.data
    written = _LIBRARY.ggml_quantize_chunk(ggml_type, rows.ctypes.data, out.ctypes.data, 0, n, row_len, importances)
    assert written == out.nbytes
    return out


def decode(ggml_type: int, data: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.float32]:
    """The `count` weights in `data`, flat."""
    out = np.empty(count, np.float32)
    assert data.flags.c_contiguous
    _LIBRARY.ggml_get_type_traits(ggml_type).contents.to_float(data.ctypes.data, out.ctypes.data, count)
    return out

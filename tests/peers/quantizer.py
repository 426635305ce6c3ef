"""`llama_model_quantize` with the parameters that the llama-quantize program would fill in."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np

import ggquant as gg

KvOverride = llama_cpp.llama_model_kv_override
_INT, _STRING = 0, 3


def quantize(source: Path, target: Path, file_type: int, *, imatrix: Path | None, threads: int = 2) -> bool:
    """Whether the library made `target`."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = file_type
    if imatrix is None:
        return llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params) == 0
    entries = _entries(imatrix)
    data = (llama_cpp.llama_model_imatrix_data * (len(entries) + 1))()
    for slot, (name, values) in zip(data, entries.items(), strict=False):
        slot.name = name.encode()
        slot.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        slot.size = values.size
    overrides = (KvOverride * 5)(
        _text("quantize.imatrix.file", str(imatrix)),
        _text("quantize.imatrix.dataset", "calibration.txt"),
        _number("quantize.imatrix.entries_count", len(entries)),
        _number("quantize.imatrix.chunks_count", 7),
    )
    params.imatrix = data
    params.kv_overrides = overrides
    return llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), params) == 0


def _entries(imatrix: Path) -> dict[str, np.ndarray]:
    """Importances as the program computes them: mean squares, in f32."""
    tensors = gg.open(imatrix).tensors
    entries = {}
    for name, tensor in tensors.items():
        if name.endswith(".in_sum2"):
            base = name.removesuffix(".in_sum2")
            counts = tensors[f"{base}.counts"].dequantize()
            entries[base] = np.ascontiguousarray(tensor.dequantize()[0] / counts[0, 0])
    return entries


def _text(key: str, value: str) -> KvOverride:
    made = KvOverride(tag=_STRING, key=key.encode())
    made.value.val_str = value.encode()[:127]
    return made


def _number(key: str, value: int) -> KvOverride:
    made = KvOverride(tag=_INT, key=key.encode())
    made.value.val_i64 = value
    return made

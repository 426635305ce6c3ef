"""Packed weights that their own packages made (`tests/peers/make_packed.py`), and how to read safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ggquant.checkpoint_index import StoredTensor, read_header
from ggquant.model import View
from ggquant.native_plan import packed_values
from ggquant.packed.checkpoint import Quantization, unpacked
from ggquant.sources import contiguous_strides

FOLDER = Path(__file__).resolve().parents[1] / "data" / "packed"
MODULE = "model.layers.0.mlp.down_proj"
CASES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))

_DTYPES: dict[str, Any] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "I8": np.int8,
    "I32": np.int32,
    "I64": np.int64,
}


def array(tensor: StoredTensor) -> npt.NDArray[Any]:
    """A stored tensor."""
    kind = np.dtype(_DTYPES[tensor.dtype])
    return np.fromfile(tensor.file, kind, int(np.prod(tensor.shape)), offset=tensor.offset).reshape(tensor.shape)


def arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All tensors of a file."""
    return {name: array(tensor) for name, tensor in read_header(path).items()}


def config(case: str) -> dict[str, Any]:
    """The quantization configuration of a case."""
    with (FOLDER / f"{case}.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    made: dict[str, Any] = json.loads(header["__metadata__"]["quantization_config"])
    return made


def weight(
    stored: dict[str, StoredTensor], quantization: dict[str, Any], warnings: list[str] | None = None
) -> StoredTensor:
    """The module's weight, put together from its parts."""
    account = Quantization(quantization["quant_method"], quantization, Path("config.json"))
    return unpacked(stored, account, [] if warnings is None else warnings)[f"{MODULE}.weight"]


def read(tensor: StoredTensor) -> npt.NDArray[np.float32]:
    """The values of packed weights."""
    strides = contiguous_strides(tensor.shape)
    view = View(tensor.file, tensor.offset, tensor.dtype, tensor.shape, strides, packed=tensor.packed)
    return packed_values(view, 1).reshape(tensor.shape)

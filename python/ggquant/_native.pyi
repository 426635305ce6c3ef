"""Signatures of the native module; `mypy.stubtest` holds them against the binary."""

from typing import Any

import numpy as np
import numpy.typing as npt

def formats() -> list[dict[str, Any]]: ...
def encode(
    format: str,
    weights: npt.NDArray[Any],
    dtype: str,
    row_len: int,
    imatrix: npt.NDArray[np.float32] | None,
    rows_per_expert: int,
    threads: int | None,
) -> npt.NDArray[np.uint8]: ...
def decode(
    format: str, data: npt.NDArray[np.uint8], row_len: int, threads: int | None
) -> npt.NDArray[np.float32]: ...

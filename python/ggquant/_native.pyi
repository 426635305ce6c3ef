"""Signatures of the native module; `mypy.stubtest` holds them against the binary."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt

from ggquant.metadata import NativeEntry

__all__ = [
    "GgufReader",
    "GgufWriter",
    "HessianFactor",
    "__version__",
    "activate",
    "add_gram",
    "add_products",
    "attention",
    "block_codes",
    "block_grid",
    "block_vectors",
    "checkpoint_tensors",
    "cholesky",
    "column_squares",
    "convert_models",
    "curve",
    "decode",
    "difference",
    "encode",
    "formats",
    "gated",
    "gptq_formats",
    "gptq_groups",
    "isa",
    "layer_norm",
    "matmul",
    "matmul_id",
    "merge_file",
    "mirror",
    "nearest_codes",
    "negative_log_likelihood",
    "pack_codes",
    "pack_logits",
    "packed_codes",
    "read_imatrix",
    "read_packed",
    "rms_norm",
    "rope",
    "round_to",
    "round_to_nearest",
    "scalar_formats",
    "score_logits",
    "soft_cap",
    "softmax",
    "solve_factored",
    "split_file",
    "vector_formats",
    "verify_file",
    "with_codes",
]

__version__: str

def isa() -> str: ...
def formats() -> list[dict[str, Any]]: ...
def encode(
    format: str,
    weights: npt.NDArray[Any],
    dtype: str,
    row_len: int,
    imatrix: npt.NDArray[np.float32] | None,
    rows_per_expert: int,
    threads: int | None,
    out: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]: ...
def decode(
    format: str,
    data: npt.NDArray[np.uint8],
    row_len: int,
    threads: int | None,
    out: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]: ...
def scalar_formats() -> list[str]: ...
def block_grid(
    format: str, data: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32], int]: ...
def with_codes(format: str, data: npt.NDArray[np.uint8], codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]: ...
def vector_formats() -> list[str]: ...
def block_vectors(
    format: str, data: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32], int, int, str]: ...
def nearest_codes(
    format: str,
    data: npt.NDArray[np.uint8],
    x: npt.NDArray[np.float32],
    row_len: int,
    threads: int | None,
) -> npt.NDArray[np.uint8]: ...
def add_gram(
    x: npt.NDArray[np.float32],
    weighted: npt.NDArray[np.float32] | None,
    columns: int,
    out: npt.NDArray[np.float64],
    threads: int | None,
) -> None: ...
def add_products(
    x: npt.NDArray[np.float32],
    x_columns: int,
    y: npt.NDArray[np.float32],
    y_columns: int,
    out: npt.NDArray[np.float64],
    threads: int | None,
) -> None: ...
def mirror(square: npt.NDArray[np.float64], len: int) -> None: ...
def cholesky(a: npt.NDArray[np.float64], len: int, threads: int | None) -> bool: ...
def solve_factored(
    factor: npt.NDArray[np.float64], len: int, b: npt.NDArray[np.float64], both: bool, threads: int | None
) -> None: ...
def matmul(
    format: str,
    data: npt.NDArray[np.uint8],
    rows: int,
    cols: int,
    x: npt.NDArray[np.float32],
    activations: str,
    out: npt.NDArray[np.float32],
    threads: int | None,
) -> None: ...
def matmul_id(
    format: str,
    data: npt.NDArray[np.uint8],
    experts: int,
    rows: int,
    cols: int,
    x: npt.NDArray[np.float32],
    ids: npt.NDArray[np.uint32],
    slots: int,
    activations: str,
    out: npt.NDArray[np.float32],
    threads: int | None,
) -> None: ...

@final
class GgufReader:
    def __new__(cls, path: str) -> GgufReader: ...
    @property
    def version(self) -> int: ...
    @property
    def byte_order(self) -> Literal["little", "big"]: ...
    @property
    def alignment(self) -> int: ...
    @property
    def shards(self) -> list[str]: ...
    def metadata(self) -> list[NativeEntry]: ...
    def tensors(self) -> list[tuple[str, list[int], str, int, int, int]]: ...
    def read(self, index: int, offset: int, nbytes: int) -> npt.NDArray[np.uint8]: ...

@final
class GgufWriter:
    def __new__(cls, path: str, overwrite: bool) -> GgufWriter: ...
    def add(self, name: str, shape: Sequence[int], kind: str, data: npt.NDArray[np.uint8]) -> None: ...
    def finish(self, entries: list[NativeEntry]) -> None: ...
    def discard(self) -> None: ...

def verify_file(path: str, threads: int | None) -> list[tuple[str, str | None, int | None, int | None, str]]: ...
def split_file(
    source: str,
    prefix: str,
    max_bytes: int | None,
    max_tensors: int | None,
    no_tensor_first: bool,
    overwrite: bool,
    progress: Callable[[int], object] | None,
) -> list[str]: ...
def merge_file(source: str, target: str, overwrite: bool, progress: Callable[[int], object] | None) -> None: ...
def read_imatrix(
    path: str,
) -> tuple[list[tuple[str, npt.NDArray[np.float32], npt.NDArray[np.float32]]], tuple[str, ...], int]: ...
def pack_logits(logits: npt.NDArray[np.float32], n_vocab: int, threads: int | None) -> npt.NDArray[np.uint16]: ...
def score_logits(
    logits: npt.NDArray[np.float32],
    n_vocab: int,
    base: npt.NDArray[np.uint16],
    targets: npt.NDArray[np.uint32],
    threads: int | None,
) -> npt.NDArray[np.float64]: ...
def difference(
    a: npt.NDArray[np.float32],
    b: npt.NDArray[np.float32],
    row_len: int,
    importance: npt.NDArray[np.float32] | None,
    rows_per_expert: int,
    first_row: int,
    threads: int | None,
) -> list[float]: ...
def checkpoint_tensors(path: str) -> list[tuple[str, str, list[int], Path, int, int]]: ...
def convert_models(
    models: Sequence[Any],
    threads: int | None,
    overwrite: bool,
    resume: bool,
    max_buffer: int | None,
    progress: Callable[[str, str, int, int, int], object] | None,
) -> tuple[list[list[tuple[Path, int]]], int, int, list[list[tuple[str, int]]]]: ...

@final
class HessianFactor:
    def __new__(
        cls,
        hessian: npt.NDArray[np.float32],
        row_len: int,
        damp: float,
        act_order: bool,
        joint: bool,
        passes: int,
        threads: int | None,
    ) -> HessianFactor: ...
    @property
    def damp(self) -> float: ...
    @property
    def dead(self) -> int: ...
    def solve(
        self,
        format: str,
        weights: npt.NDArray[np.float32],
        importance: npt.NDArray[np.float32] | None,
        rounds: int,
        passes: int,
        threads: int | None,
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64], npt.NDArray[np.float64]]: ...

def gptq_formats() -> list[tuple[str, bool]]: ...
def gptq_groups(
    weights: npt.NDArray[np.float32],
    hessian: npt.NDArray[np.float64],
    row_len: int,
    bits: int,
    group_size: int,
    symmetric: bool,
    act_order: bool,
    damp: float,
    scale_type: str,
    least_zero: int,
    threads: int | None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.uint32]]: ...
def rms_norm(
    x: npt.NDArray[np.float32], weight: npt.NDArray[np.float32], eps: float, threads: int | None
) -> npt.NDArray[np.float32]: ...
def layer_norm(
    x: npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
    eps: float,
    threads: int | None,
) -> npt.NDArray[np.float32]: ...
def rope(
    x: npt.NDArray[np.float32],
    heads: int,
    head_dim: int,
    cos: npt.NDArray[np.float32],
    sin: npt.NDArray[np.float32],
    pairs: int,
    halves: bool,
    threads: int | None,
) -> None: ...
def attention(
    q: npt.NDArray[np.float32],
    k: npt.NDArray[np.float32],
    v: npt.NDArray[np.float32],
    sequence: int,
    heads: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    scale: float,
    causal: bool,
    window: int | None,
    soft_cap: float | None,
    sinks: npt.NDArray[np.float32] | None,
    threads: int | None,
) -> npt.NDArray[np.float32]: ...
def activate(x: npt.NDArray[np.float32], kind: str, threads: int | None) -> None: ...
def curve(x: npt.NDArray[np.float32], kind: str, threads: int | None) -> None: ...
def softmax(x: npt.NDArray[np.float32], columns: int, threads: int | None) -> None: ...
def gated(gate: npt.NDArray[np.float32], up: npt.NDArray[np.float32], kind: str, threads: int | None) -> None: ...
def soft_cap(x: npt.NDArray[np.float32], cap: float, threads: int | None) -> None: ...
def round_to(x: npt.NDArray[np.float32], kind: str, out: npt.NDArray[np.float32], threads: int | None) -> None: ...
def column_squares(x: npt.NDArray[np.float32], columns: int, threads: int | None) -> npt.NDArray[np.float64]: ...
def negative_log_likelihood(
    logits: npt.NDArray[np.float32], columns: int, targets: npt.NDArray[np.uint32], threads: int | None
) -> npt.NDArray[np.float64]: ...
def read_packed(part: Any, out: npt.NDArray[np.float32], threads: int | None) -> None: ...
def packed_codes(
    part: Any, threads: int | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.uint8]]: ...
def pack_codes(
    layout: str, codes: npt.NDArray[np.uint8], columns: int, bits: int, threads: int | None
) -> npt.NDArray[np.uint8]: ...
def round_to_nearest(
    weights: npt.NDArray[np.float32],
    columns: int,
    bits: int,
    group_len: int,
    symmetric: bool,
    scale_type: str,
    least_zero: int,
    threads: int | None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.uint8]]: ...
def block_codes(
    format: str, data: npt.NDArray[np.uint8], threads: int | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.float32]]: ...

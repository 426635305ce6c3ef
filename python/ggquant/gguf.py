"""GGUF files from Python: read them lazily, write them whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.errors import ShapeError, UsageError
from ggquant.metadata import Metadata, to_native
from ggquant.tensor import QuantizedTensor, _as_array

if TYPE_CHECKING:
    import os


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of an open file. Its data are read when asked for.

    Attributes:
        name: name in the file.
        shape: shape with rows first (`[..., K]`), the reverse of ggml's order.
        format: stored type, `"Q4_K"`, `"F32"`, `"I32"`, or a text saying that the type is unknown.
        nbytes: bytes of its data.
        offset: absolute offset of its data in the shard's file.
        shard: index into `GGUFFile.shards`.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    nbytes: int
    offset: int
    shard: int
    _file: _native.GgufReader
    _index: int

    def read(self) -> npt.NDArray[np.uint8]:
        """The stored bytes, a new flat uint8 array.

        Raises:
            MalformedFileError: the file has become shorter than when it was opened.
            FileError: the system could not read it.
        """
        return self._file.read(self._index, 0, self.nbytes)

    def quantized(self) -> QuantizedTensor:
        """The tensor in its block format.

        Raises:
            UsageError: the stored type is an integer type, or unknown.
        """
        return QuantizedTensor(self.read(), self.format, self.shape)

    def dequantize(self, dtype: npt.DTypeLike = "float32", *, threads: int | None = None) -> npt.NDArray[Any]:
        """The weights as an array of `shape`; integer tensors come as they are stored.

        Args:
            dtype: `"float32"` (exact), `"float16"` or `"bfloat16"`.
            threads: number of threads, by default one per core.
        """
        plain = _PLAIN.get(self.format)
        if plain is not None:
            values: npt.NDArray[Any] = self.read().view(plain).reshape(self.shape)
            return values
        return self.quantized().dequantize(dtype, threads=threads)

    def rows(self, start: int, stop: int) -> QuantizedTensor:
        """Rows `start` to `stop` (all leading axes counted as one), reading no others."""
        count = 1
        for n in self.shape[:-1]:
            count *= n
        if not 0 <= start <= stop <= count:
            raise ShapeError(f"tensor '{self.name}' has {count} rows; {start}:{stop} is not a range of them")
        row_bytes = self.nbytes // count if count else 0
        data = self._file.read(self._index, start * row_bytes, (stop - start) * row_bytes)
        return QuantizedTensor(data, self.format, (stop - start, self.shape[-1]))

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {self.format}, shape={self.shape}, {self.nbytes} bytes)"


_PLAIN: dict[str, np.dtype[Any]] = {
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}


class GGUFFile:
    """An open GGUF file, with all its shards if it is split.

    Attributes:
        metadata: the key-value metadata as a mapping of plain Python values; `metadata.typed(key)` has the stored type.
        tensors: mapping of tensor names to `Tensor`, in file order.
        version: 2 or 3.
        byte_order: "little" or "big".
        alignment: alignment of tensor data in bytes.
        shards: paths of the files, one unless the model is split.
    """

    metadata: Metadata
    tensors: Mapping[str, Tensor]
    version: int
    byte_order: Literal["little", "big"]
    alignment: int
    shards: list[Path]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        reader = _native.GgufReader(str(Path(path)))
        self.metadata = Metadata.from_native(reader.metadata())
        self.version = reader.version
        self.byte_order = reader.byte_order
        self.alignment = reader.alignment
        self.shards = [Path(p) for p in reader.shards]
        self.tensors = {
            name: Tensor(name, tuple(shape), format_, nbytes, offset, shard, reader, index)
            for index, (name, shape, format_, nbytes, offset, shard) in enumerate(reader.tensors())
        }

    def __repr__(self) -> str:
        arch = self.metadata.get("general.architecture")
        return f"GGUFFile({str(self.shards[0])!r}, architecture={arch!r}, {len(self.tensors)} tensors)"


def open(path: str | os.PathLike[str]) -> GGUFFile:
    """Opens a GGUF file; of a split model, any shard.

    Only headers are read. Versions 2 and 3, little- and big-endian.

    Raises:
        FileError: the file cannot be opened or read.
        MalformedFileError: the file breaks the format: truncated, damaged or hostile.
    """
    return GGUFFile(path)


class GGUFWriter:
    """Writes a GGUF file: under its final name it appears whole, or not at all.

    ```python
    with gg.GGUFWriter("out.gguf", {"general.architecture": "llama"}) as w:
        w.add("token_embd.weight", gg.quantize(array, "Q4_K"))
    ```

    Tensor data are spooled beside the target as they come, so memory does not grow with the file. Leaving the
    `with` block by an exception discards everything.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        """Starts a file.

        Args:
            path: where the file will be.
            metadata: a `Metadata` (types are kept), or a mapping of plain values: bool, int (the first of UINT32,
                INT32, UINT64 and INT64 that holds it), float (FLOAT32), str, lists, numpy arrays and scalars (their
                own types), or `MetaValue` to say the type.
            overwrite: replace an existing file when this one is complete.

        Raises:
            FileError: the folder cannot be written, or the file exists and `overwrite` is not set.
            UsageError: a metadata value of a type GGUF has no word for.
        """
        self.metadata = Metadata(metadata or {})
        self._names: set[str] = set()
        self._native: _native.GgufWriter | None = _native.GgufWriter(str(Path(path)), overwrite)

    def add(self, name: str, tensor: QuantizedTensor | npt.ArrayLike) -> None:
        """Appends a tensor: a `QuantizedTensor`, or an array of floats (float16 to float64, bfloat16) or integers.

        Raises:
            UsageError: the writer is closed, the name is taken or too long (63 bytes), or the dtype has no GGUF type.
            ShapeError: no axes, or more than four.
            FileError: the disk is full.
        """
        writer = self._writer()
        if isinstance(tensor, QuantizedTensor):
            data, kind, shape = np.ascontiguousarray(tensor.data).reshape(-1), tensor.format, tensor.shape
        else:
            array = _as_array(tensor)
            shape = array.shape
            kind = _KINDS.get(array.dtype.name, "")
            if not kind:
                raise UsageError(f"tensor '{name}': dtype {array.dtype} has no GGUF type")
            data = _raw(array if kind == "BF16" else array.astype(array.dtype.newbyteorder("<"), copy=False))
        self._check_tensor(name, shape)
        writer.add(name, list(shape), kind, data)
        self._names.add(name)

    def _check_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        """What would make the file unreadable is refused now, not when everything has been spooled."""
        if name in self._names:
            raise UsageError(f"tensor '{name}': the name is taken")
        if len(name.encode("utf-8", "surrogateescape")) > _NAME_BYTES:
            raise UsageError(f"tensor '{name}': a name has at most {_NAME_BYTES} bytes")
        if not 1 <= len(shape) <= _MOST_AXES:
            raise ShapeError(f"tensor '{name}': shape {shape} has {len(shape)} axes; files store 1 to {_MOST_AXES}")

    def close(self) -> None:
        """Completes the file. Called on leaving the `with` block."""
        writer = self._writer()
        self._native = None
        writer.finish(to_native(self.metadata))

    def discard(self) -> None:
        """Drops everything written so far."""
        writer, self._native = self._native, None
        if writer is not None:
            writer.discard()

    def _writer(self) -> _native.GgufWriter:
        if self._native is None:
            raise UsageError("the writer is closed")
        return self._native

    def __enter__(self) -> GGUFWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


#: ggml's limits: a name takes 64 bytes with its end, a tensor has four axes.
_NAME_BYTES = 63
_MOST_AXES = 4

_KINDS = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float64": "F64",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
}


def _raw(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)

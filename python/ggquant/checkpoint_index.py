"""Which tensors a safetensors checkpoint holds, and where: from headers alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ggquant.bounded_json import parse_object, read_object
from ggquant.errors import CheckpointError, FileError, MalformedFileError

INDEX_NAME = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""The limit that the safetensors library sets as well."""

MAX_AXES = 8

DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F4": 0,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a checkpoint file: where its data begin (bytes), type, and shape (row length last)."""

    name: str
    file: str
    offset: int
    dtype: str
    shape: tuple[int, ...]


def index_checkpoint(source: Path) -> dict[str, StoredTensor]:
    """Tensors of a checkpoint folder or of one `.safetensors` file, shard by shard, sorted by name in each.

    Raises:
        CheckpointError: no weights, a missing shard, an index and shards that name different tensors.
        MalformedFileError: a header that breaks the format.
        FileError: a file cannot be read.
    """
    if source.is_file():
        return read_header(source)
    index = source / INDEX_NAME
    weight_map = _weight_map(index) if index.is_file() else None
    if weight_map is None:
        files = sorted(p.name for p in source.glob("model*.safetensors") if p.is_file())
    else:
        files = sorted(set(weight_map.values()))
    if not files:
        raise CheckpointError(_no_weights(source), file=str(source))
    missing = [name for name in files if not (source / name).is_file()]
    if missing:
        raise CheckpointError(f"{source}: missing shard {', '.join(missing)}; download it again", file=str(source))
    tensors: dict[str, StoredTensor] = {}
    for name in files:
        for tensor in read_header(source / name).values():
            if tensor.name in tensors:
                raise CheckpointError(
                    f"{source / name}: tensor {tensor.name} is also in {tensors[tensor.name].file}",
                    file=str(source / name),
                    tensor=tensor.name,
                )
            tensors[tensor.name] = tensor
    if weight_map is not None:
        _check_against_index(index, weight_map, tensors)
    return tensors


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Tensors of one safetensors file, sorted by name. Errors as in `index_checkpoint`."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise MalformedFileError(
                    f"{path}: header of {length} bytes in a file of {size}; truncated download?",
                    file=str(path),
                )
            header = parse_object(stream.read(length), path)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}", file=str(path), errno=error.errno) from error
    header.pop("__metadata__", None)
    start = 8 + length
    return {name: _stored(path, name, header[name], start, size) for name in sorted(header)}


def _stored(path: Path, name: str, entry: Any, data_start: int, file_size: int) -> StoredTensor:
    def bad(reason: str) -> MalformedFileError:
        return MalformedFileError(f"{path}: tensor {name}: {reason}", file=str(path), tensor=name)

    if not isinstance(entry, dict):
        raise bad("entry is not an object")
    dtype, shape, span = entry.get("dtype"), _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise bad(f"unknown dtype {dtype!r}")
    if shape is None or span is None or len(shape) > MAX_AXES or len(span) != 2:
        raise bad("shape or data_offsets are not lists of sizes")
    begin, end = span
    expected = prod(shape) * DTYPE_BYTES[dtype]
    if end < begin or data_start + end > file_size:
        raise bad(f"data at {begin}..{end} lie outside the file; truncated download?")
    if dtype != "F4" and end - begin != expected:
        raise bad(f"{end - begin} bytes of data where shape {shape} of {dtype} needs {expected}")
    return StoredTensor(name, str(path), data_start + begin, dtype, tuple(shape))


def _sizes(value: Any) -> list[int] | None:
    fits = isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)
    return value if fits else None


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise MalformedFileError(f"{index}: no 'weight_map' of tensor names to file names", file=str(index))
    for name in set(weight_map.values()):
        if Path(name).name != name or "\\" in name or name in ("", ".", ".."):
            raise MalformedFileError(f"{index}: shard name {name!r} leaves the folder", file=str(index))
    return weight_map


def _check_against_index(index: Path, weight_map: dict[str, str], tensors: dict[str, StoredTensor]) -> None:
    for names, where in (
        (weight_map.keys() - tensors.keys(), "listed in the index but not in the shards"),
        (tensors.keys() - weight_map.keys(), "in the shards but not listed in the index"),
    ):
        if names:
            shown = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise CheckpointError(f"{index}: tensors {where}: {shown}", file=str(index), tensor=min(names))


def _no_weights(source: Path) -> str:
    if any(source.glob("pytorch_model*.bin")):
        return f"{source}: holds pickled .bin weights only; convert them to safetensors first"
    if any(source.glob("*.gguf")):
        return f"{source}: no safetensors here; give the .gguf file itself as the source"
    return f"{source}: no model*.safetensors in this folder"

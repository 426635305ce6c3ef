"""Which tensors a safetensors checkpoint holds, and where: from headers alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ggquant import _native
from ggquant.bounded_json import read_object
from ggquant.errors import CheckpointError, MalformedFileError
from ggquant.model import PackedMatrix

INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a checkpoint file: where its data begin (bytes), type, and shape (row length last).

    A matrix of packed integers is one tensor, too: its type and shape are those of its values, `packed` says where they
    come from.
    """

    name: str
    file: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    packed: PackedMatrix | None = None


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
    return {
        name: StoredTensor(name, str(file), offset, dtype, tuple(shape))
        for name, dtype, shape, file, offset, _ in sorted(_native.checkpoint_tensors(str(path)))
    }


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

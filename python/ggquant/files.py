"""Work on whole GGUF files: verify, split, merge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ggquant import _native
from ggquant.errors import UsageError
from ggquant.tensor import _threads

if TYPE_CHECKING:
    import os

    PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with a file.

    Attributes:
        file: the file it is in.
        tensor: name of the tensor, or None if it concerns the file.
        row, block: where in the tensor, counted from 0, or None.
        what: what is wrong.
    """

    file: str
    tensor: str | None
    row: int | None
    block: int | None
    what: str

    def __str__(self) -> str:
        place = [self.file]
        if self.tensor is not None:
            place.append(f"tensor '{self.tensor}'")
        if self.row is not None:
            place.append(f"row {self.row}" + (f", block {self.block}" if self.block is not None else ""))
        return ": ".join([*place, self.what])


def verify(path: PathLike, *, threads: int | None = None) -> list[Finding]:
    """Checks structure, bounds and data of a model; any shard of a split one will do.

    Returns:
        Everything that is wrong; an empty list if nothing is.

    Raises:
        FileError: the file cannot be read.
    """
    return [Finding(*parts) for parts in _native.verify_file(str(path), _threads(threads))]


def split(
    src: PathLike,
    dst_prefix: PathLike,
    *,
    max_size: int | None = None,
    max_tensors: int | None = None,
    no_tensor_first_split: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], object] | None = None,
) -> list[Path]:
    """Splits a model into `PREFIX-00001-of-0000N.gguf` and so on, as llama-gguf-split does. All appear, or none.

    Args:
        src: the file (or any shard) to split.
        dst_prefix: path that the shards' names begin with.
        max_size: most bytes of tensor data in a shard.
        max_tensors: most tensors in a shard; exactly one of the two must be given.
        no_tensor_first_split: keep tensors out of the first shard, so that metadata can be changed cheaply.
        overwrite: replace existing files.
        progress: called with the bytes of each piece that is copied.
    """
    if (max_size is None) == (max_tensors is None):
        raise UsageError("split by max_size or by max_tensors: give exactly one of them")
    paths = _native.split_file(
        str(src), str(dst_prefix), max_size, max_tensors, no_tensor_first_split, overwrite, progress
    )
    return [Path(p) for p in paths]


def merge(
    first_shard: PathLike,
    dst: PathLike,
    *,
    overwrite: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Path:
    """Merges the shards of a model into one file, as llama-gguf-split does.

    Args:
        first_shard: any of the shards; the others are found beside it.
        dst: the file to write.
        overwrite: replace an existing file.
        progress: called with the bytes of each piece that is copied.
    """
    _native.merge_file(str(first_shard), str(dst), overwrite, progress)
    return Path(dst)

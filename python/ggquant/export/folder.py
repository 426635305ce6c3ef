"""A folder of safetensors shards that appears whole, or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ggquant.checkpoint_index import INDEX_NAME
from ggquant.errors import FileError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_ITEM_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8}


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to write: name, type, shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return prod(self.shape) * _ITEM_BYTES[self.dtype]


@contextlib.contextmanager
def new_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, which takes the place of `target` when the block ends, and vanishes if it ends by an exception.

    Raises:
        FileError: `target` exists and is not to be replaced, or the system refuses.
        UsageError: `target` is to be replaced and is not a checkpoint.
    """
    if target.exists():
        if not overwrite:
            raise FileError(f"{target}: exists already; --overwrite replaces it", file=str(target))
        if not target.is_dir() or (any(target.iterdir()) and not (target / "config.json").is_file()):
            raise UsageError(f"{target}: not a checkpoint's folder, so it is not replaced", file=str(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".part", dir=target.parent))
    except OSError as error:
        raise _refused(target, error) from error
    try:
        yield made
        for path in made.iterdir():
            _flush(path)
        made.chmod(0o755)
        _put_in_place(made, target)
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _put_in_place(made: Path, target: Path) -> None:
    old = made.with_suffix(".old")
    replaced = target.exists()
    if replaced:
        target.rename(old)
    try:
        made.rename(target)
    except OSError:
        if replaced:
            old.rename(target)
        raise
    _flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(target: Path, error: OSError) -> FileError:
    return FileError(f"{target}: {error.strerror or error}", file=str(target), errno=error.errno)


class ShardWriter:
    """Writes tensors, all known beforehand, into shards of a limited size and an index of them."""

    def __init__(self, folder: Path, entries: Iterable[Entry], max_shard_bytes: int) -> None:
        """Lays out the shards and writes their headers.

        Args:
            folder: where they go.
            entries: the tensors, in order. Neighbours share a shard as long as it stays within the limit.
            max_shard_bytes: most bytes of tensors in a shard; a larger tensor gets one of its own.
        """
        shards: list[list[Entry]] = [[]]
        size = 0
        for entry in entries:
            if shards[-1] and size + entry.nbytes > max_shard_bytes:
                shards.append([])
                size = 0
            shards[-1].append(entry)
            size += entry.nbytes
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._file: IO[bytes] | None = None
        self._open: Path | None = None
        names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
        if len(shards) == 1:
            names = ["model.safetensors"]
        for name, shard in zip(names, shards, strict=True):
            self._lay_out(folder / name, shard)
        if len(shards) > 1:
            total = sum(nbytes for _, _, nbytes in self._places.values())
            weight_map = {name: path.name for name, (path, _, _) in sorted(self._places.items())}
            text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
            (folder / INDEX_NAME).write_text(text + "\n", encoding="utf-8")

    def _lay_out(self, path: Path, shard: list[Entry]) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for entry in shard:
            end = offset + entry.nbytes
            header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        start = 8 + len(text)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(start + offset)
        at = start
        for entry in shard:
            self._places[entry.name] = (path, at, entry.nbytes)
            at += entry.nbytes

    def write(self, name: str, data: npt.NDArray[np.uint8], at: int = 0) -> None:
        """Writes data of a tensor, from its byte `at` on."""
        path, offset, nbytes = self._places[name]
        if at + len(data) > nbytes:
            raise ValueError(f"{name}: {at + len(data)} bytes do not fit {nbytes}")
        if self._file is None or self._open != path:
            self.close()
            self._file, self._open = path.open("r+b"), path
        self._file.seek(offset + at)
        self._file.write(data.data)

    def close(self) -> None:
        """Closes the shard that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

"""A folder of safetensors shards that appears whole, or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ggquant.checkpoint_index import INDEX_NAME
from ggquant.errors import FileError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_ITEM_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8}


#: File of an unfinished folder that says which of its tensors are done.
JOURNAL_NAME = ".ggquant-journal"


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
def new_folder(target: Path, *, overwrite: bool, tag: str | None = None) -> Iterator[Path]:
    """A folder to fill, which takes the place of `target` when the block ends, and vanishes if it ends by an exception.

    The folder is locked while it is filled. What killed runs have left for the same target is removed.

    Args:
        tag: keep the folder if the block ends by an exception, and give it again to whoever comes with the same tag.

    Raises:
        FileError: `target` exists and is not to be replaced, another process fills the folder, or the system refuses.
        UsageError: `target` is to be replaced and is not a checkpoint.
    """
    if target.exists():
        if not overwrite:
            raise FileError(f"{target}: exists already; --overwrite replaces it", file=str(target))
        if not target.is_dir() or (any(target.iterdir()) and not (target / "config.json").is_file()):
            raise UsageError(f"{target}: not a checkpoint's folder, so it is not replaced", file=str(target))
    lock = -1
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = _made(target, tag)
        lock = _locked(made, target)
        _sweep(target, made)
    except OSError as error:
        raise _refused(target, error) from error
    finished = False
    try:
        yield made
        (made / JOURNAL_NAME).unlink(missing_ok=True)
        for path in made.iterdir():
            _flush(path)
        made.chmod(0o755)
        _put_in_place(made, target)
        finished = True
    except OSError as error:
        raise _refused(target, error) from error
    finally:
        if finished or tag is None:
            shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def _prefix(target: Path) -> str:
    return f".ggquant-{target.name}."


def _made(target: Path, tag: str | None) -> Path:
    if tag is None:
        return Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=".part", dir=target.parent))
    made = target.parent / f"{_prefix(target)}{tag}.part"
    made.mkdir(exist_ok=True)
    return made


def _locked(folder: Path, target: Path) -> int:
    """A descriptor of a folder that holds its lock; the system releases it when the process ends in whatever way."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise FileError(f"{target}: another process is making this checkpoint", file=str(target)) from None
    except OSError:
        pass  # A file system without locks: it is for the user not to write one folder twice at once.
    return descriptor


def _sweep(target: Path, made: Path) -> None:
    """Removes the unfinished folders of a target that nobody fills."""
    for path in target.parent.glob(f"{glob.escape(_prefix(target))}*.part"):
        if path == made or not path.is_dir():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # Somebody is at it, or nobody can tell.
        finally:
            os.close(descriptor)


def _put_in_place(made: Path, target: Path) -> None:
    if not target.exists():
        made.rename(target)
    elif not _exchange(made, target):
        old = made.with_suffix(".old")
        target.rename(old)
        try:
            made.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _flush(target.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Lets two folders change places in one step, where the system can."""
    library = ctypes.CDLL(None)
    here, exchange = -100, 2
    try:
        return bool(library.renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)
    except AttributeError:
        return False


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
        if not _has_header(path, text, start + offset):
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

    def digest(self, names: Iterable[str]) -> str:
        """Of the data of tensors, as they lie in the files."""
        self.close()
        hash = hashlib.sha256()
        for name in names:
            path, offset, left = self._places[name]
            with path.open("rb") as file:
                file.seek(offset)
                while left and (piece := file.read(min(left, 1 << 22))):
                    hash.update(piece)
                    left -= len(piece)
        return hash.hexdigest()

    def close(self) -> None:
        """Closes the shard that is open."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _has_header(path: Path, text: bytes, size: int) -> bool:
    """Whether an earlier run has left this shard."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        return file.read(8 + len(text)) == len(text).to_bytes(8, "little") + text


class Journal:
    """Which tensors of an unfinished folder are written, with digests of their data.

    A line is believed only if the data in the shards have the digest in it, so that nothing depends on the order in
    which the system wrote lines and data.

    Args:
        folder: the unfinished folder; None to remember nothing.
        writer: of its shards.
        units: names of tensors that are written together, by what they are together called.
    """

    def __init__(self, folder: Path | None, writer: ShardWriter, units: Mapping[str, Sequence[str]]) -> None:
        self._path = None if folder is None else folder / JOURNAL_NAME
        self._writer, self._units = writer, units
        self.done: dict[str, dict[str, Any]] = {}
        if self._path is None:
            return
        kept = []
        for text in self._path.read_text("utf-8").splitlines() if self._path.exists() else ():
            try:
                line = json.loads(text)
                name, digest, facts = line["name"], line["sha256"], line["facts"]
            except (ValueError, KeyError, TypeError):
                break  # Torn by the end of the run.
            if name in units and writer.digest(units[name]) == digest:
                self.done[name] = facts
                kept.append(text)
        self._path.write_text("".join(f"{text}\n" for text in kept), "utf-8")

    def note(self, name: str, facts: dict[str, Any]) -> None:
        """Notes that a unit is written, with what is to be said about it."""
        self.done[name] = facts
        if self._path is not None:
            line = {"name": name, "sha256": self._writer.digest(self._units[name]), "facts": facts}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

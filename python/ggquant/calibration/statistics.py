"""Sums of squared activations, and the two kinds of file that llama-imatrix keeps them in."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from ggquant.errors import FileError, ImatrixError, MalformedFileError
from ggquant.gguf import GGUFWriter
from ggquant.gguf import open as open_gguf
from ggquant.metadata import MetaValue
from ggquant.whole_file import replaced

if TYPE_CHECKING:
    import os

FileFormat = Literal["gguf", "dat"]

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MAX_INT32 = (1 << 31) - 1


@dataclass
class Entry:
    """What is known about the input of one weight.

    Attributes:
        sums: sums of squares, float64, one for each column of each expert, flat.
        counts: number of rows that went into them, one for each expert.
    """

    sums: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]

    def rows(self) -> npt.NDArray[np.float64]:
        """Sums by expert: [len(counts), columns]."""
        return self.sums.reshape(len(self.counts), -1)


@dataclass
class Statistics:
    """Statistics of a model's activations over some text.

    Attributes:
        entries: by GGUF name of the weight.
        datasets: names of the texts.
        chunk_count: chunks of text that were seen.
        chunk_size: tokens in a chunk.
    """

    chunk_size: int = 512
    entries: dict[str, Entry] = field(default_factory=dict)
    datasets: list[str] = field(default_factory=list)
    chunk_count: int = 0

    def add(self, name: str, sums: npt.NDArray[np.float64], rows: int, *, expert: int = 0, experts: int = 1) -> None:
        """Adds sums over `rows` rows of a weight's input.

        Raises:
            ImatrixError: earlier sums, from a file, are of another size.
        """
        entry = self.entries.get(name)
        if entry is None:
            entry = Entry(np.zeros(experts * len(sums)), np.zeros(experts, np.int64))
            self.entries[name] = entry
        if len(entry.counts) == 1 and experts > 1:
            entry.counts = np.repeat(entry.counts, experts)  # from a legacy file, which has one for all
        if len(entry.counts) != experts or entry.sums.size != experts * len(sums):
            raise ImatrixError(
                f"tensor '{name}': earlier statistics are of {entry.sums.size} columns, and these of "
                f"{experts * len(sums)}; they are from another model",
                tensor=name,
            )
        entry.rows()[expert] += sums
        entry.counts[expert] += rows

    def merge(self, other: Statistics, file: str | None = None) -> None:
        """Adds all of `other`.

        Raises:
            ImatrixError: a tensor has another size there.
        """
        for name, theirs in other.entries.items():
            ours = self.entries.get(name)
            if ours is None:
                self.entries[name] = Entry(theirs.sums.copy(), theirs.counts.copy())
                continue
            counts = theirs.counts
            if len(ours.counts) == 1 and len(counts) > 1:
                ours.counts = np.repeat(ours.counts, len(counts))
            elif len(counts) == 1 and len(ours.counts) > 1:
                counts = np.repeat(counts, len(ours.counts))
            if ours.sums.size != theirs.sums.size or len(ours.counts) != len(counts):
                raise ImatrixError(
                    f"tensor '{name}' has {theirs.sums.size} columns in one file and {ours.sums.size} in another; "
                    "they are from different models",
                    file=file,
                    tensor=name,
                )
            ours.sums += theirs.sums
            ours.counts += counts
        self.datasets += other.datasets
        self.count_chunks()

    def count_chunks(self) -> None:
        """Sets the number of chunks from the largest count, as llama-imatrix does."""
        largest = max((int(entry.counts.max()) for entry in self.entries.values() if len(entry.counts)), default=0)
        self.chunk_count = largest // self.chunk_size

    def means(self) -> dict[str, npt.NDArray[np.float32]]:
        """Importances by tensor, as `ggquant.convert` takes them; ones for experts that were never chosen."""
        result = {}
        for name, entry in self.entries.items():
            # In float32, as from a file.
            sums, counts = entry.rows().astype(np.float32), entry.counts.astype(np.float32)[:, None]
            result[name] = np.where(counts > 0, sums / np.maximum(counts, 1), np.float32(1)).reshape(-1)
        return result


def read_statistics(path: str | os.PathLike[str], chunk_size: int = 512) -> Statistics:
    """Reads a file of llama-imatrix or of `write_statistics`.

    Args:
        path: a GGUF or legacy file.
        chunk_size: tokens in a chunk; a legacy file counts chunks, not tokens.

    Raises:
        FileError, MalformedFileError: it cannot be read, or breaks its format.
        ImatrixError: it holds something that is not a sum of squares.
    """
    file = str(path)
    try:
        with Path(path).open("rb") as stream:
            is_gguf = stream.read(4) == b"GGUF"
    except OSError as error:
        raise FileError(f"{file}: {error.strerror}", file=file, errno=error.errno) from error
    found = _read_gguf(file, chunk_size) if is_gguf else _read_legacy(file, chunk_size)
    for name, entry in found.entries.items():
        bad = np.flatnonzero(~(np.isfinite(entry.sums) & (entry.sums >= 0)))
        if bad.size or (entry.counts < 0).any():
            raise ImatrixError(
                f"{file}: tensor '{name}' holds values that are no sums of squares", file=file, tensor=name
            )
    found.count_chunks()
    return found


def write_statistics(path: str | os.PathLike[str], statistics: Statistics, kind: FileFormat = "gguf") -> list[str]:
    """Writes the file that llama-imatrix would, in place of an existing one.

    Returns:
        Names of entries without any data, which a legacy file leaves out.

    Raises:
        FileError: it cannot be written.
        ImatrixError: there is nothing to write.
    """
    names = sorted(statistics.entries, key=lambda name: name.encode())
    empty = [name for name in names if not statistics.entries[name].counts.any()]
    if not names or (kind == "dat" and len(empty) == len(names)):
        raise ImatrixError(f"{path}: no statistics were collected", file=str(path))
    if kind == "dat":
        _write_legacy(Path(path), statistics, [name for name in names if name not in set(empty)])
        return empty
    metadata = {
        "general.type": MetaValue("STRING", "imatrix"),
        "imatrix.datasets": MetaValue("ARRAY", list(statistics.datasets), "STRING"),
        "imatrix.chunk_count": MetaValue("UINT32", statistics.chunk_count),
        "imatrix.chunk_size": MetaValue("UINT32", statistics.chunk_size),
    }
    with GGUFWriter(path, metadata, overwrite=True) as writer:
        for name in names:
            entry = statistics.entries[name]
            sums, counts = entry.rows().astype(np.float32), entry.counts.astype(np.float32)[:, None]
            # ggml drops axes of length 1 at the end.
            writer.add(name + _SUMS, sums if len(counts) > 1 else sums[0])
            writer.add(name + _COUNTS, counts if len(counts) > 1 else counts[0])
    return []


def _read_gguf(file: str, chunk_size: int) -> Statistics:
    model = open_gguf(file)
    datasets = model.metadata.get("imatrix.datasets", [])
    found = Statistics(chunk_size, datasets=[str(name) for name in datasets])
    names = {name.removesuffix(_SUMS) for name in model.tensors if name.endswith(_SUMS)}
    if not names or names != {name.removesuffix(_COUNTS) for name in model.tensors if name.endswith(_COUNTS)}:
        raise MalformedFileError(f"{file}: not an importance matrix: its tensors are not sums with counts", file=file)
    for name in sorted(names):
        sums, counts = model.tensors[name + _SUMS], model.tensors[name + _COUNTS]
        if sums.format != "F32" or counts.format != "F32":
            raise MalformedFileError(f"{file}: sums and counts of '{name}' are not F32", file=file, tensor=name)
        numbers = counts.dequantize().reshape(-1)
        values = sums.dequantize().reshape(-1).astype(np.float64)
        if not numbers.size or values.size % numbers.size or not np.isfinite(numbers).all():
            raise MalformedFileError(f"{file}: sums and counts of '{name}' do not fit", file=file, tensor=name)
        found.entries[name] = Entry(values, np.rint(numbers).astype(np.int64))
    return found


def _read_legacy(file: str, chunk_size: int) -> Statistics:
    """The older kind: means times the number of chunks, and that number."""
    data = Path(file).read_bytes()
    at = 0

    def take(count: int, what: str) -> bytes:
        nonlocal at
        if not 0 <= count <= len(data) - at:
            raise MalformedFileError(f"{file}: neither GGUF nor a legacy importance matrix: {what}", file=file)
        at += count
        return data[at - count : at]

    def number(what: str) -> int:
        return int(struct.unpack("<i", take(4, what))[0])

    found = Statistics(chunk_size)
    entries = number("it is too short")
    if entries < 1:
        raise MalformedFileError(f"{file}: neither GGUF nor a legacy importance matrix: {entries} entries", file=file)
    for _ in range(entries):
        name = take(number("a name is missing"), "a name is cut short").decode("utf-8", "surrogateescape")
        calls, size = number("a count is missing"), number("a size is missing")
        if size < 1:
            raise MalformedFileError(f"{file}: tensor '{name}' has {size} values", file=file, tensor=name)
        values = np.frombuffer(take(4 * size, f"the values of '{name}' are cut short"), "<f4")
        found.entries[name] = Entry(values.astype(np.float64) * chunk_size, np.array([calls * chunk_size], np.int64))
    if at < len(data):
        number("the number of chunks is cut short")
        if at < len(data):
            dataset = take(number("a name is missing"), "a name is cut short")
            found.datasets = [dataset.decode("utf-8", "surrogateescape")] if dataset else []
    return found


def _write_legacy(path: Path, statistics: Statistics, names: list[str]) -> None:
    with replaced(path) as file:
        file.write(struct.pack("<i", len(names)))
        for name in names:
            entry = statistics.entries[name]
            # Rounded up, so that little data does not become none.
            calls = -(-int(entry.counts.max()) // statistics.chunk_size)
            counts = entry.counts[:, None].astype(np.float32)
            sums = entry.rows().astype(np.float32)
            means = np.where(counts > 0, sums / np.maximum(counts, 1), np.float32(1)) * np.float32(calls)
            encoded = name.encode("utf-8", "surrogateescape")
            file.write(struct.pack("<i", len(encoded)) + encoded + struct.pack("<ii", calls, means.size))
            file.write(means.astype("<f4").tobytes())
        dataset = (statistics.datasets[-1] if statistics.datasets else "").encode("utf-8", "surrogateescape")
        file.write(struct.pack("<ii", min(statistics.chunk_count, _MAX_INT32), len(dataset)) + dataset)


def merged(files: Iterable[str | os.PathLike[str]], chunk_size: int) -> Statistics:
    """The statistics of several files together.

    Raises:
        FileError, MalformedFileError, ImatrixError: as for `read_statistics` and `Statistics.merge`.
    """
    total = Statistics(chunk_size)
    for file in files:
        total.merge(read_statistics(file, chunk_size), str(file))
    return total

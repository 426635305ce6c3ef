"""Importance matrices: read them, choose entries, hold them against a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.errors import ImatrixError, UsageError
from ggquant.metadata import Metadata, MetaValue

if TYPE_CHECKING:
    import os

#: Longest text llama-quantize stores for a file or dataset name: its buffer has 128 bytes.
_NAME_BYTES = 127


@dataclass
class Imatrix:
    """Importance of every column of every tensor, as `llama-quantize` computes it from the file.

    Attributes:
        entries: tensor name -> float32 importances, `[K]` or `[n_expert * K]` flat.
        file: the path it was read from, as given; None if made from arrays.
        datasets: names of the calibration texts.
        chunk_count: number of chunks of text that were seen, 0 if unknown.
        warnings: experts without data and the like, by name.
        counts: tensor name -> float32 numbers of activations the statistics are of, `[1]` or `[n_expert]`; empty where
            the file does not say.
    """

    entries: dict[str, npt.NDArray[np.float32]]
    file: str | None = None
    datasets: list[str] = field(default_factory=list)
    chunk_count: int = 0
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def select(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Imatrix:
        """Keeps entries whose names contain one of `include` (if any are given), or none of `exclude`."""
        if include and exclude:
            raise UsageError("--include-weights and --exclude-weights cannot be used together")
        kept = {
            name: values
            for name, values in self.entries.items()
            if not any(part in name for part in exclude) and (not include or any(part in name for part in include))
        }
        return Imatrix(kept, self.file, self.datasets, self.chunk_count, self.warnings, self.counts)

    def describe(self, metadata: Metadata, *, redact_paths: bool = False) -> None:
        """Writes the `quantize.imatrix.*` keys that llama-quantize writes.

        Args:
            metadata: metadata of the output, changed in place.
            redact_paths: store names of files without their folders.
        """
        if self.file is not None:
            file = Path(self.file).name if redact_paths else self.file
            metadata.set_last("quantize.imatrix.file", MetaValue("STRING", _clip(file)))
        if self.datasets:
            dataset = Path(self.datasets[0]).name if redact_paths else self.datasets[0]
            metadata.set_last("quantize.imatrix.dataset", MetaValue("STRING", _clip(dataset)))
        metadata.set_last("quantize.imatrix.entries_count", MetaValue("UINT32", len(self.entries)))
        if self.chunk_count > 0:
            metadata.set_last("quantize.imatrix.chunks_count", MetaValue("UINT32", self.chunk_count))


def load_imatrix(source: str | os.PathLike[str] | Imatrix | Mapping[str, npt.ArrayLike]) -> Imatrix:
    """An importance matrix from a file of llama-imatrix (GGUF or legacy .dat), or from arrays by tensor name.

    Raises:
        FileError, MalformedFileError: the file cannot be read, or breaks its format.
        ImatrixError: a value is negative or not finite; the message names the tensor and the column.
    """
    if isinstance(source, Imatrix):
        made = source
    elif isinstance(source, Mapping):
        arrays = {k: np.ascontiguousarray(v, dtype=np.float32).reshape(-1) for k, v in source.items()}
        made = Imatrix(arrays)
    else:
        path = str(source)
        entries, datasets, chunk_count = _native.read_imatrix(path)
        counts = {name: numbers for name, _, numbers in entries if numbers.size}
        made = Imatrix({name: values for name, values, _ in entries}, path, list(datasets), chunk_count, counts=counts)
    for name, values in made.entries.items():
        bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if bad.size:
            raise ImatrixError(
                f"importance matrix: entry {bad[0]} of '{name}' is {values[bad[0]]}; collect it again",
                file=made.file,
                tensor=name,
            )
    return made


def _clip(text: str) -> str:
    return text.encode("utf-8", "surrogateescape")[:_NAME_BYTES].decode("utf-8", "surrogateescape")


#: Activations from which an expert's statistics are taken to mean something: the mean of n squares of a normal variable
#: has a relative error of sqrt(2 / n), which is a quarter here.
_FEW = 32


def coverage(name: str, experts: npt.NDArray[np.float32], counts: npt.NDArray[np.float32] | None) -> list[str]:
    """What to know about the importances of tensor `name` before using them.

    Args:
        name: for the messages.
        experts: importances, one row for each expert, one row for a tensor without experts.
        counts: activations that each row is made of, or None where the file does not say.
    """
    if not experts.any():
        return [f"tensor '{name}': all its importances are zero"]
    if len(experts) == 1:
        return []
    if counts is not None and counts.size == len(experts):
        # llama-imatrix and llama-quantize have ones in the place of statistics that nothing was collected for.
        unseen = counts < 0.5
        few = np.flatnonzero(~unseen & (counts < _FEW))
    else:
        unseen, few = (experts == 1).all(axis=1), np.zeros(0, np.intp)
    zero = np.flatnonzero(~unseen & ~experts.any(axis=1))
    found = (
        (np.flatnonzero(unseen), "were never seen", ", so their columns count alike"),
        (few, f"were seen fewer than {_FEW} times", "; their importances are rough"),
        (zero, "have only zeros for importances", ""),
    )
    return [
        f"tensor '{name}': {which.size} of {len(experts)} experts {what} ({_listed(which)}){so}"
        for which, what, so in found
        if which.size
    ]


def _listed(numbers: npt.NDArray[np.intp]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if numbers.size > 8 else "")

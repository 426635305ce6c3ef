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
    """

    entries: dict[str, npt.NDArray[np.float32]]
    file: str | None = None
    datasets: list[str] = field(default_factory=list)
    chunk_count: int = 0
    warnings: list[str] = field(default_factory=list)

    def select(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Imatrix:
        """Keeps entries whose names contain one of `include` (if any are given), or none of `exclude`."""
        if include and exclude:
            raise UsageError("--include-weights and --exclude-weights cannot be used together")
        kept = {
            name: values
            for name, values in self.entries.items()
            if not any(part in name for part in exclude) and (not include or any(part in name for part in include))
        }
        return Imatrix(kept, self.file, self.datasets, self.chunk_count, self.warnings)

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
        made = Imatrix(dict(entries), path, list(datasets), chunk_count)
    for name, values in made.entries.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise ImatrixError(
                f"importance matrix: entry {bad[0]} of '{name}' is {values[bad[0]]}; collect it again",
                file=made.file,
                tensor=name,
            )
    return made


def _clip(text: str) -> str:
    return text.encode("utf-8", "surrogateescape")[:_NAME_BYTES].decode("utf-8", "surrogateescape")

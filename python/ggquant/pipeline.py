"""The only orchestrator: source -> plan -> native conversion -> report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from ggquant import _native, variants
from ggquant.errors import ImatrixError, UnsupportedError, UsageError
from ggquant.registry import format_info
from ggquant.imatrix import Imatrix, load_imatrix
from ggquant.metadata import Metadata, MetaValue, to_native
from ggquant.model import Model, Plan, PlannedTensor, SourceTensor
from ggquant.sources import load_model

if TYPE_CHECKING:
    import os

    Source = str | os.PathLike[str]
    ImatrixLike = str | os.PathLike[str] | Imatrix | Mapping[str, npt.ArrayLike]

#: `general.quantization_version` of the k-quant layouts this package writes.
QUANTIZATION_VERSION = 2


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a conversion stands.

    Attributes:
        tensor: name of the tensor that was last written to.
        format: its format in the output.
        tensors_done, tensors_total: counts of tensors.
        bytes_done, bytes_total: bytes of encoded data.
        seconds: time since the start.
    """

    tensor: str
    format: str
    tensors_done: int
    tensors_total: int
    bytes_done: int
    bytes_total: int
    seconds: float


@dataclass
class ConversionReport:
    """What a conversion did.

    Attributes:
        paths: the files written, in shard order.
        tensors: every tensor and its format.
        total_bytes: size of all files.
        bits_per_weight: mean stored bits per weight.
        seconds: duration.
        isa: instruction set that encoded.
        warnings: what the user should know.
    """

    paths: list[Path]
    tensors: list[PlannedTensor]
    total_bytes: int
    bits_per_weight: float
    seconds: float
    isa: str
    warnings: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """The file written; of a split output, its first shard."""
        return self.paths[0]

    @property
    def fallbacks(self) -> list[PlannedTensor]:
        """Tensors that did not get the format the variant asks for."""
        return [t for t in self.tensors if t.fallback is not None]

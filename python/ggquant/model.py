"""What a model is before a format is chosen: metadata, and tensors as strided views into source files.

Everything here is made from headers alone. No weight is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

from ggquant.metadata import MetaValue


@dataclass(frozen=True, slots=True)
class View:
    """A strided window on one tensor of a source file, walked in row-major order of `shape`.

    Attributes:
        file: path of the source file.
        offset: where the stored tensor's data begins in the file, in bytes.
        dtype: stored type: "F32", "F16", "BF16", "F8_E4M3", "U8", ... or a GGUF block format.
        shape: elements along each axis of the walk; any number of axes, not only those of the output.
        strides: distance between neighbours along each axis, in elements.
        start: the first element, counted from `offset`, in elements.
    """

    file: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int = 0

    @property
    def elements(self) -> int:
        """How many elements the walk visits."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One tensor of the model. Its data are its views' walks one after another, read as `shape`.

    Attributes:
        name: GGUF name, such as `blk.0.attn_q.weight`.
        shape: rows first, row length last (GGUF stores it reversed).
        dtype: the type it has in llama.cpp's intermediate file, or a GGUF source's own type.
        views: where the values come from, in order; empty where `inline` is set.
        ops: elementwise arithmetic in float32, in order: `("add", c)`, `("mul", c)`, `("neg_exp", 0.0)`, and
            `("round_f16", 0.0)`, which rounds to the nearest half.
            `("mxfp4_repack", 0.0)` stands alone: views are [packed codes, scales], both U8, and become MXFP4
            blocks.
        inline: little-endian data of `dtype` supplied here, for small computed tensors.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    views: tuple[View, ...] = ()
    ops: tuple[tuple[str, float], ...] = ()
    inline: bytes | None = None

    @property
    def elements(self) -> int:
        """How many values the tensor has."""
        return prod(self.shape)


MetaDict: TypeAlias = dict[str, MetaValue]
"""Metadata in file order. Setting a key again keeps its first place, as llama.cpp's writer does."""


@dataclass
class Model:
    """A model to be written: architecture name, metadata, tensors, and what the user should be told.

    Attributes:
        inputs: the files it is read from; none of them may be written to.
    """

    arch: str
    metadata: MetaDict
    tensors: list[SourceTensor]
    warnings: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)

"""What a model is before a format is chosen: metadata, and tensors as strided views into source files.

Everything here is made from headers alone. No weight is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TypeAlias

from ggquant.metadata import MetaValue

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4}


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
        packed: how the values are stored, where they are packed integers; `shape`, `strides` and `start` then walk over
            the unpacked matrix, by whole rows, and `offset` is that of its codes.
    """

    file: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int = 0
    packed: PackedMatrix | None = None

    @property
    def elements(self) -> int:
        """How many elements the walk visits."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A matrix whose codes, scales and zero points lie apart: each weight is `scale * (code - zero)`.

    The views present the parts with one row an output, whichever way they lie in the file.

    Attributes:
        scheme: what to call it: "GPTQ", "AWQ", "compressed-tensors", "FP8".
        rows: outputs.
        columns: inputs.
        coding: how codes are stored: "dense" (back to back in words of 32 bits), "aligned" (as many as fit a word),
            "awq" (eight outputs a word), "signed" (bytes, which count from -128), "float" (8-bit floats).
        bits: bits of a code.
        codes: `[rows, words]`; "awq": `[rows / 8, columns]`; bytes: `[rows, columns]`.
        scales: `[ceil(rows / rows_per_scale), groups]`.
        rows_per_scale: neighbouring outputs that share their scales.
        zero: the zero point of all groups, where it is known to be the same.
        zeros: otherwise, `[words, groups]` that pack outputs, or `[rows, groups]` of bytes.
        zero_coding: how `zeros` are stored, as `coding`.
        zero_less_one: what is stored is one less than the zero point (the first version of the GPTQ format).
        group_len: neighbouring inputs that share a scale; the last group may be shorter.
        listed: the group of each input, where those of a group are no neighbours (act-order).
        row_order, column_order: which stored output, or input, stands in the place of each, where they change places:
            32-bit little-endian numbers.
    """

    scheme: str
    rows: int
    columns: int
    coding: str
    bits: int
    codes: View
    scales: View
    rows_per_scale: int = 1
    zero: int | None = None
    zeros: View | None = None
    zero_coding: str = "dense"
    zero_less_one: bool = False
    group_len: int = 0
    listed: View | None = None
    row_order: bytes | None = None
    column_order: bytes | None = None

    @property
    def groups(self) -> int:
        """Groups of a row."""
        return self.scales.shape[1]

    @property
    def label(self) -> str:
        """In two words: `GPTQ 4-bit`."""
        return f"{self.scheme} {self.bits}-bit" if self.coding != "float" else f"{self.scheme} {self.codes.dtype}"

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        parts = (self.codes, self.scales, self.zeros, self.listed)
        return sum(view.elements * _ITEM_BYTES.get(view.dtype, 1) for view in parts if view is not None)


@dataclass(frozen=True, slots=True)
class Factors:
    """What a matrix is multiplied with when it is run: little-endian float32, none where all are 1.

    Attributes:
        rows: one for each row; of a stack of matrices, one for each row of each.
        columns: one for each column; of a stack, one for each column of each, or the same for all.
    """

    rows: bytes | None = None
    columns: bytes | None = None


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
        factors: for models that are run and not stored: its values are multiplied with these, and are float32 then.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    views: tuple[View, ...] = ()
    ops: tuple[tuple[str, float], ...] = ()
    inline: bytes | None = None
    factors: Factors | None = None

    @property
    def elements(self) -> int:
        """How many values the tensor has."""
        return prod(self.shape)

    @property
    def label(self) -> str:
        """How it is stored: its type, or what packed weights are called."""
        packed = self.views[0].packed if self.views else None
        return self.dtype if packed is None else packed.label

    @property
    def packed_bytes(self) -> int | None:
        """Bytes of packed weights with their scales; None for others."""
        parts = [view.packed.nbytes for view in self.views if view.packed is not None]
        return sum(parts) if parts else None


MetaDict: TypeAlias = dict[str, MetaValue]
"""Metadata in file order. Setting a key again keeps its first place, as llama.cpp's writer does."""


@dataclass
class Model:
    """A model to be written: architecture name, metadata, tensors, and what the user should be told.

    Attributes:
        inputs: the files it is read from; none of them may be written to.
        beyond_gguf: facts of the configuration that are not written, but count when the model is run.
    """

    arch: str
    metadata: MetaDict
    tensors: list[SourceTensor]
    warnings: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    beyond_gguf: MetaDict = field(default_factory=dict)

"""Plans in the form in which the native engine reads them: attributes by name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ggquant import _native
from ggquant.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from ggquant.metadata import NativeEntry
    from ggquant.model import SourceTensor, View
    from ggquant.policy import Decision

ViewParts: TypeAlias = tuple[str, int, str, tuple[int, ...], tuple[int, ...], int]


@dataclass(frozen=True, slots=True)
class NativePacked:
    """A walk over a packed matrix, see `ggquant.model.PackedMatrix`."""

    rows: int
    columns: int
    coding: str
    bits: int
    codes: ViewParts
    scales: ViewParts
    rows_per_scale: int
    zero: int | None
    zeros: ViewParts | None
    zero_coding: str
    zero_less_one: bool
    group_len: int
    listed: ViewParts | None
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    row_order: bytes | None
    column_order: bytes | None


@dataclass(frozen=True, slots=True)
class NativeTensor:
    """A tensor to write.

    Attributes:
        packed: instead of `views`, for packed weights.
        keeps_codes: whether packed codes go into blocks as they are.
        lattice: whether blocks on the format's own grid get their codes back: "off", "auto", "only".
    """

    name: str
    shape: tuple[int, ...]
    format: str
    intermediate: str
    views: list[ViewParts]
    packed: list[NativePacked]
    keeps_codes: bool
    ops: list[tuple[str, float]]
    inline: bytes | None
    imatrix: npt.NDArray[np.float32] | None
    rows_per_expert: int
    lattice: str


@dataclass(frozen=True, slots=True)
class NativeModel:
    """A model to write."""

    target: str
    metadata: list[NativeEntry]
    tensors: list[NativeTensor]
    split_max_bytes: int | None
    split_max_tensors: int | None
    shards: list[int] | None


def native_tensor(
    source: SourceTensor,
    decision: Decision,
    importance: npt.NDArray[np.float32] | None,
    *,
    keeps_codes: bool = False,
    lattice: str = "off",
) -> NativeTensor:
    """A tensor of the plan.

    Args:
        keeps_codes: its packed codes go into the blocks of `decision.format` as they are.
        lattice: "auto" gives blocks that are on the format's own grid their codes back, "only" allows no others.

    Raises:
        UnsupportedError: a computed tensor in another type than its own, one that is packed in part, or one with
            factors.
    """
    packed = [native_packed(view) for view in source.views if view.packed is not None]
    if packed and len(packed) != len(source.views):
        raise UnsupportedError(f"tensor '{source.name}' is made of packed and other weights", tensor=source.name)
    if source.factors is not None:
        raise UnsupportedError(f"tensor '{source.name}' has factors, with which it can only be run", tensor=source.name)
    if source.inline is not None and decision.format != source.dtype:
        raise UnsupportedError(
            f"tensor '{source.name}' is computed, and is stored as {source.dtype} only", tensor=source.name
        )
    return NativeTensor(
        name=decision.name,
        shape=source.shape,
        format=decision.format,
        intermediate=decision.format if keeps_codes else source.dtype,
        views=[] if packed else [view_parts(view) for view in source.views],
        packed=packed,
        keeps_codes=keeps_codes,
        ops=list(source.ops),
        inline=source.inline,
        imatrix=importance,
        rows_per_expert=source.shape[-2] if len(source.shape) > 1 else 1,
        lattice=lattice,
    )


def packed_values(view: View, threads: int | None) -> npt.NDArray[np.float32]:
    """The values of a walk over a packed matrix, flat, in the order of the walk.

    Raises:
        ValueError: the view is not of one.
        FileError, MalformedFileError: the file cannot be read, or has become shorter.
    """
    # numpy asks for large pages; handing out small ones takes longer than unpacking does.
    values = np.empty(math.prod(view.shape), np.float32)
    _native.read_packed(native_packed(view), values, threads)
    return values


def native_packed(view: View) -> NativePacked:
    """A walk over a packed matrix.

    Raises:
        ValueError: the view is not of one.
    """
    part = view.packed
    if part is None:
        raise ValueError(f"{view.file}: no packed weights")
    return NativePacked(
        rows=part.rows,
        columns=part.columns,
        coding=part.coding,
        bits=part.bits,
        codes=view_parts(part.codes),
        scales=view_parts(part.scales),
        rows_per_scale=part.rows_per_scale,
        zero=part.zero,
        zeros=view_parts(part.zeros) if part.zeros is not None else None,
        zero_coding=part.zero_coding,
        zero_less_one=part.zero_less_one,
        group_len=part.group_len,
        listed=view_parts(part.listed) if part.listed is not None else None,
        shape=view.shape,
        strides=view.strides,
        start=view.start,
        row_order=part.row_order,
        column_order=part.column_order,
    )


def view_parts(view: View) -> ViewParts:
    """A view as a tuple."""
    return (view.file, view.offset, view.dtype, view.shape, view.strides, view.start)


def ready_tensor(view: View, decision: Decision) -> NativeTensor:
    """A tensor that is in its format already, and is copied as it is.

    Raises:
        UsageError: the plan wants another format or shape.
    """
    if view.dtype != decision.format or view.shape != decision.shape:
        raise UsageError(
            f"tensor '{decision.name}' is ready as {view.dtype} of shape {view.shape}, "
            f"but the plan wants {decision.format} of shape {decision.shape}"
        )
    return NativeTensor(
        name=decision.name,
        shape=view.shape,
        format=view.dtype,
        intermediate=view.dtype,
        views=[(view.file, view.offset, view.dtype, view.shape, view.strides, view.start)],
        packed=[],
        keeps_codes=False,
        lattice="off",
        ops=[],
        inline=None,
        imatrix=None,
        rows_per_expert=1,
    )

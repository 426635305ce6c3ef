"""Inputs in act-order become neighbours again where the operation before them can take up the permutation.

In act-order (`desc_act`) the inputs of a group lie all over a row, where GGUF blocks are made of neighbours. If the
outputs of the matrices before change places in the same way, the model computes the same: rows of `ffn_gate` and
`ffn_up` for `ffn_down`; rows of `attn_v`, within heads, for `attn_output`. Rows have scales of their own and can be in
any order. Inputs that are the residual stream must stay where they are, since all layers share it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ggquant.architectures.registry import graph_of
from ggquant.errors import FileError
from ggquant.model import Model, PackedMatrix, SourceTensor, View
from ggquant.packed.transcode import TARGETS
from ggquant.runtime.weights import as_float32, read_tensor
from ggquant.sources import contiguous_strides

Order: TypeAlias = npt.NDArray[np.int64]

_BLOCK = 32
_IN_LAYER = re.compile(r"(blk\.\d+\.)(\w+)\.weight")

_SHARED = "and its inputs are the residual stream, whose order all layers share"


class _InPlaceError(Exception):
    """Why an order cannot be taken up."""


@dataclass(frozen=True, slots=True)
class Fold:
    """A matrix with its inputs in the order of their groups, and what has to change with it.

    Attributes:
        matrix: its columns change places.
        before: tensors whose rows do, by name.
    """

    matrix: SourceTensor
    before: Mapping[str, SourceTensor]


def folds(model: Model) -> tuple[dict[str, Fold], dict[str, str]]:
    """By name: the matrices in act-order whose inputs can change places, and why the others' cannot."""
    tensors = {tensor.name: tensor for tensor in model.tensors}
    found: dict[str, Fold] = {}
    reasons: dict[str, str] = {}
    for tensor in model.tensors:
        if any(view.packed is not None and view.packed.listed is not None for view in tensor.views):
            try:
                found[tensor.name] = _fold(tensor, tensors, model)
            except _InPlaceError as error:
                reasons[tensor.name] = str(error)
    return found, reasons


def as_in(model: Model, other: Mapping[str, SourceTensor]) -> list[SourceTensor]:
    """A model's tensors, with act-order folded wherever `other`, made of it, seems to have it folded."""
    tensors = {tensor.name: tensor for tensor in model.tensors}
    for name, fold in folds(model)[0].items():
        theirs = other.get(name)
        if theirs is None or theirs.dtype not in TARGETS or theirs.elements != fold.matrix.elements:
            continue
        values, *ours = (as_float32(read_tensor(t)).reshape(-1) for t in (theirs, fold.matrix, tensors[name]))
        folded, plain = (float(np.abs(own - values).sum()) for own in ours)
        if folded < plain:
            tensors |= {name: fold.matrix, **fold.before}
    return list(tensors.values())


def _fold(tensor: SourceTensor, tensors: Mapping[str, SourceTensor], model: Model) -> Fold:
    named = _IN_LAYER.fullmatch(tensor.name)
    feeds = graph_of(model.arch, tensor.name).feeds
    if named is None or named[2] not in feeds:
        raise _InPlaceError(_SHARED)
    layer, kind = named[1], named[2]
    before = [tensors[f"{layer}{name}.weight"] for name in feeds[kind] if f"{layer}{name}.weight" in tensors]
    if not before or tensor.ops:
        raise _InPlaceError("and no matrix is known whose outputs are its inputs")
    parts = [_whole(view, tensor.name) for view in tensor.views]
    if kind == "attn_output":
        columns, rows = _within_heads(_listed(parts[0]), model)
        orders = [(columns, rows)]
    else:
        orders = [(order, order) for order in (_by_group(_listed(part)) for part in parts)]
    if len(orders) != len(parts):
        raise _InPlaceError("and it is not one matrix")
    views = tuple(
        replace(view, packed=replace(part, column_order=_bytes(columns)))
        for view, part, (columns, _) in zip(tensor.views, parts, orders, strict=True)
    )
    changed = {}
    for source in before:
        own = [_rows_of(source, columns, rows) for columns, rows in orders]
        changed[source.name] = _reordered(source, own)
        bias = tensors.get(source.name.removesuffix("weight") + "bias")
        if bias is not None:
            changed[bias.name] = _reordered(bias, own)
    return Fold(replace(tensor, views=views), changed)


def _whole(view: View, name: str) -> PackedMatrix:
    """The packed matrix that a view walks from beginning to end."""
    part = view.packed
    if part is None or view.start or view.strides != contiguous_strides(view.shape):
        raise _InPlaceError("and it is not stored as one matrix")
    if view.elements != part.rows * part.columns:
        raise _InPlaceError("and only a part of it is used")
    return part


def _listed(part: PackedMatrix) -> npt.NDArray[np.int32]:
    """The group of each input."""
    if part.listed is None:
        return (np.arange(part.columns) // part.group_len).astype(np.int32)
    try:
        return np.fromfile(part.listed.file, "<i4", part.columns, offset=part.listed.offset)
    except OSError as error:
        raise FileError(f"{part.listed.file}: {error.strerror}", file=part.listed.file) from error


def _by_group(listed: npt.NDArray[np.int32]) -> Order:
    """Inputs in the order of their groups, which must fill blocks."""
    order = np.argsort(listed, kind="stable")
    if len(order) % _BLOCK or (np.ptp(listed[order].reshape(-1, _BLOCK), axis=1) != 0).any():
        raise _InPlaceError(f"and they have other sizes than multiples of {_BLOCK}")
    return order


def _within_heads(listed: npt.NDArray[np.int32], model: Model) -> tuple[Order, Order]:
    """An order of inputs that are outputs of attention, and that of the rows of values: heads stay whole.

    All heads that share a head of values take the same order.
    """
    heads, shared = (_size(model, key) for key in ("attention.head_count", "attention.head_count_kv"))
    shared = shared or heads
    if not heads or heads % shared or len(listed) % heads:
        raise _InPlaceError("and the number of its heads is not known")
    width, columns, rows = len(listed) // heads, [], []
    for number, groups in enumerate(listed.reshape(shared, heads // shared, width)):
        # Values that are in the same group in every head are interchangeable.
        kinds = np.unique(groups.T, axis=0, return_inverse=True)[1].reshape(-1)
        order = np.argsort(kinds, kind="stable")
        if width % _BLOCK or (np.ptp(kinds[order].reshape(-1, _BLOCK), axis=1) != 0).any():
            raise _InPlaceError("and they are spread over its heads, which attention keeps apart")
        rows.append(number * width + order)
        columns += [(number * (heads // shared) + head) * width + order for head in range(heads // shared)]
    return np.concatenate(columns), np.concatenate(rows)


def _size(model: Model, key: str) -> int:
    value = model.metadata.get(f"{model.arch}.{key}")
    return value.value if value is not None and isinstance(value.value, int) else 0


def _rows_of(source: SourceTensor, columns: Order, rows: Order) -> Order:
    """The order of a matrix's rows that puts its outputs into the order of the inputs that they are."""
    count = source.shape[-2]
    if count == len(rows):
        return rows
    if count == 2 * len(columns):  # gate and up as one matrix
        return np.concatenate([columns, columns + len(columns)])
    if count > len(columns):  # queries, keys and values as one
        first = count - len(rows)
        return np.concatenate([np.arange(first), first + rows])
    raise _InPlaceError(f"and {source.name} has other outputs than these")


def _reordered(tensor: SourceTensor, orders: list[Order]) -> SourceTensor:
    """A tensor with its rows, or its elements if it is a bias, in other places; one order for each expert."""
    if tensor.name.endswith(".bias"):
        if tensor.dtype != "F32":
            raise _InPlaceError(f"and {tensor.name} is stored as {tensor.dtype}")
        values = as_float32(read_tensor(tensor)).reshape(len(orders), -1)
        made = np.concatenate([own[order] for own, order in zip(values, orders, strict=True)])
        return replace(tensor, views=(), ops=(), inline=made.astype("<f4").tobytes())
    if len(tensor.views) != len(orders):
        raise _InPlaceError(f"and {tensor.name} is stored in other parts")
    views: list[View] = []
    for view, order in zip(tensor.views, orders, strict=True):
        if view.packed is not None:
            views.append(replace(view, packed=replace(_whole(view, tensor.name), row_order=_bytes(order))))
        else:
            views += _runs(view, order, tensor)
    return replace(tensor, views=tuple(views))


def _runs(view: View, order: Order, tensor: SourceTensor) -> list[View]:
    """Rows of floats in another order, neighbours that stay neighbours together."""
    columns = tensor.shape[-1]
    if view.strides != contiguous_strides(view.shape) or view.elements != len(order) * columns:
        raise _InPlaceError(f"and {tensor.name} is stored in another way")
    ends = np.flatnonzero(np.diff(order) != 1) + 1
    return [
        replace(view, shape=(len(run), columns), strides=(columns, 1), start=view.start + int(run[0]) * columns)
        for run in np.split(order, ends)
    ]


def _bytes(order: Order) -> bytes:
    return order.astype("<u4").tobytes()

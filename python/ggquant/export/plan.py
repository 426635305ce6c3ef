"""How each module of an export is stored: which codes, and in which tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ggquant.checkpoint_index import StoredTensor
from ggquant.errors import Error, UnsupportedError
from ggquant.export.folder import Entry
from ggquant.export.from_gguf import BlockWeights
from ggquant.export.layouts import Part, check_zeros, parts, scale_type
from ggquant.export.modules import Linear, StoredWeights
from ggquant.export.scheme import ACT_ORDER, Layout, Method, Scheme, check, obstacle

#: Groups of the blocks of GGUF formats, which all others are cut into.
_LEAST_GROUP = 32


@dataclass
class Planned:
    """A module and how it is stored.

    Attributes:
        linear: the module.
        scheme: how its weights are quantized.
        keep: take its codes over as they are.
        why: why they are not, where it has some.
        act_order: groups are not made of neighbours.
        parts: the tensors it is stored in.
    """

    linear: Linear
    scheme: Scheme
    keep: bool
    why: str
    act_order: bool
    parts: list[Part]


def linear_of(tensor: StoredTensor, blocks: BlockWeights | None) -> Linear:
    """The module that a weight belongs to, with values from a GGUF file where `blocks` are given."""
    rows, columns = tensor.shape
    dtype = tensor.dtype if tensor.packed is None else tensor.packed.scales.dtype
    name = tensor.name.removesuffix(".weight")
    return Linear(name, rows, columns, dtype, blocks if blocks is not None else StoredWeights(tensor))


def plan_module(
    to: Layout,
    linear: Linear,
    asked: Scheme,
    insisted: bool,
    method: Method | None,
    act_order: bool,
    threads: int | None,
) -> Planned:
    """Decides how a module is stored. Codes are looked at only where they are to be kept.

    Args:
        to: the layout.
        linear: the module.
        asked: how modules are quantized that are not kept.
        insisted: whether the user asked for just that.
        method: how codes are found; None to keep what can be kept.
        act_order: whether modules that are not kept have groups that are not made of neighbours.

    Raises:
        UnsupportedError: the layout cannot hold it, with the reason.
    """
    scheme, why, keep = asked, "", False
    if method in (None, "keep") and linear.weights.is_quantized:
        found = _kept_scheme(to, linear, asked if insisted else None, threads)
        if isinstance(found, str):
            why = found
        else:
            (scheme, act_order), keep = found, True
    if method == "keep" and not keep:
        reason = why or "it is not quantized yet"
        raise UnsupportedError(f"module {linear.name}: its codes cannot be kept: {reason}", tensor=linear.name)
    if reason := obstacle(to, scheme, linear.rows, linear.columns):
        raise UnsupportedError(f"module {linear.name}: {reason}; --skip keeps modules as they are", tensor=linear.name)
    scales = scale_type(to, linear.dtype)
    made = parts(to, scheme, linear.rows, linear.columns, scales, threads=threads)
    return Planned(linear, scheme, keep, why, act_order, made)


def _kept_scheme(to: Layout, linear: Linear, asked: Scheme | None, threads: int | None) -> tuple[Scheme, bool] | str:
    """The scheme of packed weights, and whether they are in act-order; or why the layout cannot hold their codes."""
    found = linear.weights.codes(threads, asked)
    if found is None and asked is not None:
        own = linear.weights.codes(threads)
        if own is not None:
            return f"its codes are of {own[0].label}, and {asked.label} are asked for"
    if found is None:
        return "its weights are no integer codes with scales of rows"
    if asked is None and obstacle(to, found[0], linear.rows, linear.columns):
        # Groups that do not divide the row may be ones that do, several times over.
        found = linear.weights.codes(threads, replace(found[0], group_size=_LEAST_GROUP)) or found
    scheme, codes = found
    try:
        check(to, scheme)
        check_zeros(to, linear.name, codes)
    except Error as error:
        return str(error)
    if reason := obstacle(to, scheme, linear.rows, linear.columns):
        return reason
    if codes.listed is not None and to not in ACT_ORDER:
        return f"{to} has no act-order"
    if scale_type(to, linear.dtype) == "F16":
        with np.errstate(over="ignore"):
            if not np.array_equal(codes.scales.astype(np.float16).astype(np.float32), codes.scales):
                return "its scales are no f16 numbers"
    return scheme, codes.listed is not None


def entries_of(tensor: StoredTensor, planned: Mapping[str, Planned]) -> Iterator[Entry]:
    """What is written for a tensor of the checkpoint: the parts of its module, or itself."""
    module = planned.get(tensor.name.removesuffix(".weight")) if tensor.name.endswith(".weight") else None
    if module is None:
        dtype = tensor.dtype if tensor.packed is None else tensor.packed.scales.dtype
        yield Entry(tensor.name, dtype, tensor.shape)
        return
    for part in module.parts:
        yield Entry(f"{module.linear.name}.{part.end}", part.dtype, part.shape)

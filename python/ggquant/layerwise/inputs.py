"""Which weights of a layer share an input, and what that input is for some tokens."""

from __future__ import annotations

from collections.abc import Container, Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggquant.model import SourceTensor
from ggquant.runtime import Block

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Stage:
    """Weights with the same input, which can be solved together.

    Attributes:
        names: GGUF names, in the order of use.
        experts: whether each expert has inputs of its own.
    """

    names: tuple[str, ...]
    experts: bool


#: Roles whose weights read the same input, as far as names tell.
_SHARED = (("attn_q", "attn_k", "attn_v"), ("ffn_gate", "ffn_up"), ("ffn_gate_exps", "ffn_up_exps"))


def likely_stages(tensors: Iterable[SourceTensor]) -> list[tuple[str, ...]]:
    """Names of a layer's matrices, or of others, with those together that read the same input.

    This is what their roles tell before anything has run; `stages` finds out how it is.
    """
    found: dict[str, list[str]] = {}
    for tensor in tensors:
        role = tensor.name.removesuffix(".weight").rpartition(".")[2]
        if len(tensor.shape) >= 2 and tensor.name.endswith(".weight"):
            group = next((group[0] for group in _SHARED if role in group), role)
            found.setdefault(group, []).append(tensor.name)
    # A layer begins with its attention.
    return [tuple(names) for _, names in sorted(found.items(), key=lambda one: not one[0].startswith("attn_q"))]


class _EnoughError(Exception):
    """Raised in a hook to leave the layer once all that is wanted has been seen."""


def stages(block: Block, h: Floats) -> list[Stage]:
    """The stages of a layer, found by running a few tokens through it.

    Args:
        block: the layer.
        h: hidden states [1, n, hidden] of a few tokens.
    """
    found: list[list[str]] = []
    experts: list[bool] = []
    last: Floats | None = None

    def hook(name: str, x: Floats, ids: npt.NDArray[np.int32] | None) -> None:
        nonlocal last
        known = any(name in names for names in found)
        # A router reads the same input as its experts, but each of these has tokens of its own.
        if x is last and not known and experts[-1] == (ids is not None):
            found[-1].append(name)
        elif not known:
            found.append([name])
            experts.append(ids is not None)
        last = x

    if block.experts is not None:
        block.experts.all_for_hook = True
    block(h, hook)
    if block.experts is not None:
        block.experts.all_for_hook = False
    return [Stage(tuple(names), own) for names, own in zip(found, experts, strict=True)]


def inputs_of(block: Block, h: Floats, wanted: tuple[str, ...]) -> dict[str, Floats]:
    """Inputs of some weights, [tokens, K] each, for one group of chunks. Leaves the layer after the last of them."""
    seen: dict[str, Floats] = {}

    def hook(name: str, x: Floats, ids: npt.NDArray[np.int32] | None) -> None:
        if name in wanted:
            seen[name] = x
            if len(seen) == len(wanted):
                raise _EnoughError

    with suppress(_EnoughError):
        block(h, hook)
    return seen


@dataclass(frozen=True)
class Input:
    """What went into a weight.

    Attributes:
        name: of the weight.
        expert: whose it is; -1 for a weight without experts.
        x: [tokens, K].
    """

    name: str
    expert: int
    x: Floats


def seen_through(block: Block, h: Floats, names: Container[str], out: Floats | None = None) -> list[Input]:
    """Runs one group of chunks through a layer.

    Args:
        block: the layer.
        h: [n_chunks, n_ctx, hidden].
        names: the weights whose inputs are wanted.
        out: where the layer's result goes, if it is needed; possibly `h` itself.

    Returns:
        The inputs in the order in which they came, without those of experts that have no tokens.
    """
    seen: list[Input] = []

    def hook(name: str, x: Floats, ids: npt.NDArray[np.int32] | None) -> None:
        if name in names and len(x):
            # A layer that begins without a norm reads the states themselves, which its result may replace.
            kept = x.copy() if out is not None and np.may_share_memory(x, out) else x
            seen.append(Input(name, -1 if ids is None else int(ids[0]), kept))

    block(h, hook, out=out)
    return seen

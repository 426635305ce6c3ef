"""`--prune-layers`: the names that the remaining layers get."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .tensors import order_key

__all__ = ["Pruned", "prune"]

_BLOCK = re.compile(r"blk\.([0-9]+)\.")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What is left of a model: `names` maps the old names of kept tensors to new ones; `block_count` is the
    number of layers that the metadata must say, or None where nothing was pruned."""

    names: dict[str, str]
    block_count: int | None


def prune(names: Iterable[str], layers: Sequence[int]) -> Pruned:
    """Drops `layers` (sorted) and closes the gaps, in the order in which a file keeps its tensors."""
    ordered = sorted(names, key=order_key)
    if not layers:
        return Pruned({name: name for name in ordered}, None)
    renumbered: dict[int, int | None] = {}
    following = 0
    kept: dict[str, str] = {}
    for name in ordered:
        found = _BLOCK.search(name)
        if found is None:
            kept[name] = name
            continue
        layer = int(found[1])
        if layer not in renumbered:
            if layer in layers:
                renumbered[layer] = None
            elif layer < layers[0]:
                renumbered[layer] = layer
                following = layer + 1
            else:
                renumbered[layer] = following
                following += 1
        new = renumbered[layer]
        if new is not None:
            kept[name] = f"{name[: found.start(1)]}{new}{name[found.end(1) :]}"
    return Pruned(kept, following)

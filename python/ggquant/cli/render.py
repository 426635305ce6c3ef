"""Tables on standard output: the tensors of a plan, of a file, the metadata, the formats."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ggquant.cli.text import layers, printable, size

#: Width of tables that go to a file or a pipe, where nothing says how wide a line may be.
_PIPE_WIDTH = 200
#: Items of a metadata array that are shown.
_ITEMS = 6
#: Characters of a metadata text that are shown.
_CHARACTERS = 100
#: The part of a reason that tells one layer from another.
_PLACE = re.compile(r" \(number \d+ of \d+\)$")


def console() -> Console:
    """Standard output; tables keep their natural width when it is not a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> Table:
    """A plain table; columns named in `right` are aligned there. Cells are never read as markup."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


@dataclass(slots=True)
class TensorGroup:
    """Tensors that differ only in their layer.

    Attributes:
        pattern: the name with `{}` for the layer's number, or the whole name.
        shape: rows first.
        formats: source and output format.
        why: reason for the format.
        layers: layers of the group, empty for a tensor outside the layers.
        nbytes: bytes of all of them.
    """

    pattern: str
    shape: tuple[int, ...]
    formats: tuple[str, str]
    why: str
    layers: list[int] = field(default_factory=list)
    nbytes: int = 0

    @property
    def name(self) -> str:
        """The names of all tensors of the group, as one: `blk.{0-3,7}.attn_q.weight`."""
        return self.pattern.replace("{}", f"{{{layers(sorted(self.layers))}}}") if self.layers else self.pattern


def group_tensors(tensors: Iterable[Any]) -> list[TensorGroup]:
    """Joins planned tensors that share everything but the layer; like names stand together."""
    groups: dict[tuple[object, ...], TensorGroup] = {}
    for tensor in tensors:
        match = re.fullmatch(r"(.*?\bblk\.)(\d{1,9})(\..*)", tensor.name, re.DOTALL)
        pattern = f"{match[1]}{{}}{match[3]}" if match else tensor.name
        why = _PLACE.sub("", tensor.why if tensor.fallback is None else tensor.fallback)
        key = (pattern, tensor.shape, tensor.source, tensor.format, why)
        group = groups.get(key)
        if group is None:
            group = groups[key] = TensorGroup(pattern, tensor.shape, (tensor.source, tensor.format), why)
        if match:
            group.layers.append(int(match[2]))
        group.nbytes += tensor.nbytes
    patterns = list(dict.fromkeys(group.pattern for group in groups.values()))
    return sorted(groups.values(), key=lambda group: patterns.index(group.pattern))


def plan_table(tensors: Iterable[Any]) -> Table:
    """Every tensor of a plan or a report, layers joined."""
    return table(
        ("tensor", "shape", "from", "to", "size", "why"),
        ((g.name, shape(g.shape), *g.formats, size(g.nbytes), g.why) for g in group_tensors(tensors)),
        right=("shape", "size"),
    )


def format_shares(tensors: Iterable[Any]) -> Table:
    """What each format holds of the model."""
    totals: dict[str, list[int]] = {}
    for tensor in tensors:
        entry = totals.setdefault(tensor.format, [0, 0, 0])
        entry[0] += 1
        entry[1] += count(tensor.shape)
        entry[2] += tensor.nbytes
    weights = sum(entry[1] for entry in totals.values())
    return table(
        ("format", "tensors", "weights", "share", "size"),
        (
            (name, str(n), f"{w:,}", f"{100 * w / weights:.1f} %" if weights else "", size(b))
            for name, (n, w, b) in sorted(totals.items(), key=lambda item: -item[1][1])
        ),
        right=("tensors", "weights", "share", "size"),
    )


def metadata_table(metadata: Mapping[str, Any]) -> Table:
    """Keys and values, long ones cut."""
    return table(("key", "value"), ((key, value_text(value)) for key, value in metadata.items()))


def value_text(value: Any) -> str:
    """A metadata value on one line; arrays by their length and first items."""
    if isinstance(value, str):
        return value if len(value) <= _CHARACTERS else f"{value[:_CHARACTERS]}... ({len(value)} characters)"
    if hasattr(value, "__len__"):
        shown = ", ".join(value_text(item) for item in value[:_ITEMS])
        return f"[{shown}{', ...' if len(value) > _ITEMS else ''}] ({len(value)} items)"
    if isinstance(value, float) and float(np.float32(value)) == value:
        return str(np.float32(value))  # the shortest text that means this f32
    return str(value)


def shape(axes: tuple[int, ...]) -> str:
    """Axes, rows first, as `768 x 256`."""
    return " x ".join(map(str, axes))


def count(axes: tuple[int, ...]) -> int:
    """Number of weights."""
    product = 1
    for n in axes:
        product *= n
    return product

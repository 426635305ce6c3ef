"""Decisions of a whole model as a few short lines, for test data that people can read.

A line is `FORMAT kind layers`: the tensors `blk.<layer>.<kind>` of these layers take the format. Tensors
outside the layers are listed by name with `-` for their layers. Tensors in the default format are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_LAYER = re.compile(r"blk\.([0-9]+)\.(.+)")


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,6,8-9` for sorted numbers."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in runs)


def numbers(text: str) -> list[int]:
    """The reverse of `ranges`."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def to_lines(formats: Mapping[str, str], default: str) -> list[str]:
    """Formats by tensor name as lines."""
    grouped: dict[tuple[str, str], list[int]] = {}
    outside: list[str] = []
    for name, fmt in formats.items():
        if fmt == default:
            continue
        found = _LAYER.fullmatch(name)
        if found:
            grouped.setdefault((fmt, found[2]), []).append(int(found[1]))
        else:
            outside.append(f"{fmt} {name} -")
    return sorted(outside) + sorted(f"{fmt} {kind} {ranges(n)}" for (fmt, kind), n in grouped.items())


def from_lines(lines: Iterable[str]) -> dict[str, str]:
    """The reverse of `to_lines`, for the tensors listed."""
    formats: dict[str, str] = {}
    for line in lines:
        fmt, kind, layers = line.split(" ")
        if layers == "-":
            formats[kind] = fmt
        else:
            formats.update({f"blk.{n}.{kind}": fmt for n in numbers(layers)})
    return formats


def tensors_from(rows: Mapping[str, str]) -> list[tuple[str, tuple[int, ...]]]:
    """Tensors from `{"attn_q.weight 0-27": "6x256", "output.weight -": "6x256"}`."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for key, text in rows.items():
        kind, layers = key.rsplit(" ", 1)
        shape = tuple(int(d) for d in text.split("x"))
        if layers == "-":
            found.append((kind, shape))
        else:
            found.extend((f"blk.{n}.{kind}", shape) for n in numbers(layers))
    return found


def tensors_to(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, str]:
    """The reverse of `tensors_from`; the order of the tensors is lost."""
    grouped: dict[tuple[str, str], list[int]] = {}
    found: dict[str, str] = {}
    for name, shape in tensors:
        text = "x".join(map(str, shape))
        layer = _LAYER.fullmatch(name)
        if layer:
            grouped.setdefault((layer[2], text), []).append(int(layer[1]))
        else:
            found[f"{name} -"] = text
    found.update({f"{kind} {ranges(n)}": text for (kind, text), n in grouped.items()})
    return found

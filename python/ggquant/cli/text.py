"""Text for people: sizes, and names from files that are not to be trusted with a terminal."""

from __future__ import annotations

import re

from ggquant.errors import UsageError

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")


def size(nbytes: float) -> str:
    """A number of bytes with three digits and a decimal unit, as `4.58 GB`."""
    unit = 0
    while nbytes >= 999.5 and unit < len(_UNITS) - 1:
        nbytes /= 1000
        unit += 1
    return f"{nbytes:.0f} {_UNITS[unit]}" if unit == 0 else f"{nbytes:.3g} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """A time as people say it: `75 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def printable(text: str) -> str:
    """`text` with control characters escaped: a name from a file must not drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str) -> str:
    """`text` on one line, without control characters."""
    return printable(" ".join(text.split("\n")))


def parse_size(text: str | None) -> int | None:
    """Bytes of a size such as `500M` or `4G` (decimal, as gguf-split counts).

    Raises:
        UsageError: not a positive whole number followed by M or G.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,9})([MG])", text)
    if match is None:
        raise UsageError(f"'{text}' is not a size; give a whole number of mega- or gigabytes such as 500M or 4G")
    return int(match[1]) * (1000**2 if match[2] == "M" else 1000**3)


def layers(numbers: list[int]) -> str:
    """Ascending numbers with runs joined: `0-3,7`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)

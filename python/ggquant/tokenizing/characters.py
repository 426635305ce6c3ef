"""What tokenizers ask about characters: general category, white space, lower case, base letter.

Python's `unicodedata` and the tokenizers library follow whatever version of Unicode they were built with. Token ids
must not, so the tables of the version that llama.cpp uses are kept in `unicode.json`.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from functools import cache
from importlib.resources import files

Ranges = tuple[tuple[int, int], ...]
"""Code points as pairs of first and last, ascending and disjoint."""

LAST = 0x10FFFF


@cache
def _tables() -> dict[str, str]:
    text = files("ggquant.tokenizing").joinpath("unicode.json").read_text("ascii")
    tables: dict[str, str] = json.loads(text)
    return tables


@cache
def _runs() -> tuple[list[int], str]:
    """Where each run of one category starts, and the categories' letters."""
    starts: list[int] = []
    letters: list[str] = []
    at = 0
    for run in _tables()["categories"].split():
        starts.append(at)
        letters.append(run[0])
        at += int(run[1:], 16)
    return starts, "".join(letters)


@cache
def category(letter: str) -> Ranges:
    """The characters of a general category by its major letter: L, M, N, P, S, Z, C, and U for unassigned."""
    starts, letters = _runs()
    ends = [*starts[1:], LAST + 1]
    return tuple((s, e - 1) for s, e, found in zip(starts, ends, letters, strict=True) if found == letter)


@cache
def category_of(point: int) -> str:
    """The major letter of a code point's general category."""
    starts, letters = _runs()
    return letters[bisect_right(starts, point) - 1]


@cache
def whitespace() -> frozenset[int]:
    """The code points that count as white space."""
    return frozenset(int(point, 16) for point in _tables()["whitespace"].split())


@cache
def lowercase() -> dict[int, int]:
    """Simple lower case, as `str.translate` takes it."""
    found: dict[int, int] = {}
    for run in _tables()["lowercase"].split():
        start, count, step, shift = (int(number, 16) for number in run.split("."))
        found.update({point: point + shift for point in range(start, start + count * step, step)})
    return found


@cache
def base_letters() -> dict[int, int]:
    """The first character of each canonical decomposition, as `str.translate` takes it."""
    found: dict[int, int] = {}
    for run in _tables()["bases"].split():
        first, count, base = (int(number, 16) for number in run.split("."))
        found.update(dict.fromkeys(range(first, first + count), base))
    return found


def union(*parts: Ranges) -> Ranges:
    """All code points in any of the parts."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(pair for part in parts for pair in part):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    """All code points that are not in `ranges`."""
    found: list[tuple[int, int]] = []
    at = 0
    for first, last in union(ranges):
        if first > at:
            found.append((at, first - 1))
        at = last + 1
    if at <= LAST:
        found.append((at, LAST))
    return tuple(found)


def points(values: frozenset[int]) -> Ranges:
    """Single code points as ranges."""
    return union(tuple((value, value) for value in values))

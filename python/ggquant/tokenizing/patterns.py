"""Regular expressions of pre-tokenizers, with their character classes spelled out.

A class such as `\\p{L}` or `\\s` means something else in every regex engine and Unicode version. Here each becomes a
list of code points, so what is left for the engine is what all agree on: alternation, repetition, lookahead.
"""

from __future__ import annotations

import re
from functools import cache

from ggquant.tokenizing.characters import Ranges, category, complement, points, union, whitespace

_PIECE = re.compile(
    r"""
    (?P<set> \[ \^? (?: \\. | [^\]\\] )+ \] )
  | (?P<escape> \\ (?: [pP]\{\w+\} | . ) )
  | (?P<end> \$ )
  | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_INSIDE = re.compile(r"\\p\{(?P<category>\w+)\}|\\(?P<escape>.)|(?P<plain>.)", re.DOTALL)
_LITERALS = {"r": "\r", "n": "\n", "t": "\t"}
_SHORTHANDS = "sSd"
_ENGINE_SPECIAL = "()|?*+{}:=!,"


@cache
def explicit(pattern: str) -> str:
    """`pattern` for the Oniguruma engine, with every class as a list of code points.

    As in ECMAScript, `\\d` is 0-9 and `$` is the end of the text. White space beyond ASCII is matched by `\\s` and by
    negated classes, never by a range that happens to span it; letters of all cases belong to `\\p{Lu}` and its kin.
    """
    made: list[str] = []
    for piece in _PIECE.finditer(pattern):
        kind, text = piece.lastgroup, piece[0]
        if kind == "set":
            made.append(_written(_set(text)))
        elif kind == "escape":
            made.append(_escape(text))
        elif kind == "end":
            made.append(r"\z")
        else:
            made.append(text if text.isalnum() or text in _ENGINE_SPECIAL else _quoted(text))
    return "".join(made)


def _escape(text: str) -> str:
    if text[1] in "pP":
        found = _category(text[3:-1])
        return _written(found if text[1] == "p" else complement(found))
    if text[1] in _SHORTHANDS:
        return _written(_shorthand(text[1]))
    return _quoted(_LITERALS.get(text[1], text[1]))


def _set(text: str) -> Ranges:
    """The code points of a bracket expression."""
    negated = text[1] == "^"
    items = list(_INSIDE.finditer(text[2 if negated else 1 : -1]))
    parts: list[Ranges] = []
    singles: list[tuple[int, int]] = []
    at = 0
    while at < len(items):
        item = items[at]
        if item["category"]:
            parts.append(_category(item["category"]))
        elif item["escape"] and item["escape"] in _SHORTHANDS:
            parts.append(_shorthand(item["escape"]))
        else:
            first = last = _character(item)
            if at + 2 < len(items) and items[at + 1]["plain"] == "-":
                last = _character(items[at + 2])
                at += 2
            singles.append((first, last))
        at += 1
    written = complement(union(complement(tuple(singles)), _wide_space())) if singles else ()
    found = union(*parts, written)
    return complement(found) if negated else found


def _character(item: re.Match[str]) -> int:
    escaped = item["escape"]
    return ord(_LITERALS.get(escaped, escaped) if escaped else item["plain"])


def _shorthand(letter: str) -> Ranges:
    if letter == "d":
        return ((0x30, 0x39),)
    space = points(whitespace())
    return space if letter == "s" else complement(space)


def _category(name: str) -> Ranges:
    return _HAN if name == "Han" else category(name[0])


@cache
def _wide_space() -> Ranges:
    return points(frozenset(point for point in whitespace() if point > 0x7F))


def _written(ranges: Ranges) -> str:
    return "[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges) + "]"


def _quoted(text: str) -> str:
    return "".join(rf"\x{{{ord(character):x}}}" for character in text)


_HAN: Ranges = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2EBEF),
    (0x2F800, 0x2FA1F),
)
"""Chinese characters with their extensions and compatibility forms, as llama.cpp counts them."""

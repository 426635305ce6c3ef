"""Model identifiers, such as `Org/Base-7B-Instruct-v0.2`, taken apart.

The conventions are those of llama.cpp's converter, so that the same metadata come out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_VERSION = re.compile(r"(v|iter)?\d+([.]\d+)*", re.IGNORECASE)
_ENCODING = re.compile(r"i?q\d(_\w)*|b?fp?(16|32)", re.IGNORECASE)
_SIZE = re.compile(r"(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)", re.IGNORECASE)
_FINETUNE = re.compile(r"chat|instruct|vision|lora", re.IGNORECASE)
_KEEP_CASE = re.compile(r"^(v\d+(?:\.\d+)*|\d.*)$")
_SUFFIXES = " KMBT"


@dataclass(frozen=True, slots=True)
class NameParts:
    """What an identifier says; None where it says nothing or is too ambiguous."""

    name: str | None
    organization: str | None = None
    basename: str | None = None
    finetune: str | None = None
    version: str | None = None
    size_label: str | None = None


@dataclass(slots=True)
class _Word:
    text: str
    kinds: set[str] = field(default_factory=set)


def title(identifier: str) -> str:
    """Words with capitals; acronyms, mixed case, versions and sizes stay as they are."""
    words = identifier.strip().replace("-", " ").split()
    return " ".join(w.title() if w.islower() and not _KEEP_CASE.match(w) else w for w in words)


def dissect(identifier: str, parameters: int = 0) -> NameParts:
    """Takes an identifier apart.

    Args:
        identifier: a folder name, or `organization/name`.
        parameters: the model's number of weights; a "size" far from it is more likely a context length.
    """
    if " " in identifier:
        return NameParts(identifier)
    organization, slash, name = identifier.partition("/")
    if not slash:
        organization, name = "", identifier
    owner = None if not slash or organization.startswith(".") else organization
    words = [_Word(text) for text in name.split("-") if text]
    for position, word in enumerate(words):
        _classify(word, position, parameters)
    # A number beats a word: `Phi-3-mini-4B` is 4B.
    if any("size_label" in w.kinds and any(c.isdecimal() for c in w.text) for w in words):
        for word in words:
            if word.text.isalpha():
                word.kinds.discard("size_label")
    _find_basename(words)

    def joined(kind: str) -> str | None:
        return "-".join(w.text for w in words if kind in w.kinds) or None

    sizes = dict.fromkeys(w.text for w in words if "size_label" in w.kinds)
    version = "-".join(w.text for w in words if "version" in w.kinds and "basename" not in w.kinds) or None
    size_label, finetune, basename = "-".join(sizes) or None, joined("finetune"), joined("basename")
    if size_label is None and finetune is None and version is None:
        basename = None
    return NameParts(name, owner, basename, finetune, version, size_label)


def _classify(word: _Word, position: int, parameters: int) -> None:
    if _VERSION.fullmatch(word.text):
        word.kinds.add("version")
    elif _ENCODING.fullmatch(word.text):
        word.kinds.add("type")
        word.text = word.text.upper()
    elif position > 0 and _SIZE.fullmatch(word.text):
        _classify_size(word, parameters)
    elif position > 0 and _FINETUNE.fullmatch(word.text):
        word.kinds.add("finetune")


def _classify_size(word: _Word, parameters: int) -> None:
    text = word.text.replace("_", ".")
    if text[-1].isdecimal():  # 7b1 means 7.1b
        text = f"{text[:-2]}.{text[-1]}{text[-2]}"
    if len(text) > 1 and text[-2].isdecimal() and text[-1] in "kmbt":
        text = text[:-1] + text[-1].upper()
    if parameters > 0:
        try:
            claimed = float(text[:-1]) * pow(1000, _SUFFIXES.find(text[-1]))
        except ValueError:
            claimed = float(parameters)
        if abs(claimed - parameters) > 7 * parameters // 8:
            word.kinds.add("finetune")
            text = text[:-1] + text[-1].lower()
    if not word.kinds:
        word.kinds.add("size_label")
    word.text = text


def _find_basename(words: list[_Word]) -> None:
    at_start = True
    for word in words:
        if at_start and ((not word.kinds and word.text[0].isalpha()) or "version" in word.kinds):
            word.kinds.add("basename")
        else:
            at_start = False
            if not word.kinds:
                word.kinds.add("finetune")
    for word in reversed(words):  # versions at the end are not part of the base name
        if "basename" not in word.kinds or len(word.kinds) == 1:
            break
        word.kinds.discard("basename")

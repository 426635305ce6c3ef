"""Unigram: of all ways to cut the text into tokens, the one with the best sum of scores (Kudo, arXiv:1804.10959)."""

from __future__ import annotations

import numpy as np

from ggquant.tokenizing.charsmap import CharsMap
from ggquant.tokenizing.vocabulary import SPACE, Kind, Vocabulary

_UNKNOWN_PENALTY = 10.0
_KEY = 4
_REPLACEMENT = "\ufffd".encode()


class Unigram:
    """Text without special tokens to ids, for model t5.

    Scores are added up in float64 from the start of the text, so that ties fall as they do in SentencePiece.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        get = vocabulary.metadata.get
        self._unknown = vocabulary.special.get("unk", 0)
        charsmap = get("tokenizer.ggml.precompiled_charsmap")
        data = np.array(charsmap or [], np.int64).astype(np.uint8).tobytes()
        self._charsmap = CharsMap(data, vocabulary.path) if charsmap else None
        self._prefix = vocabulary.space_prefix
        self._merge = bool(get("tokenizer.ggml.remove_extra_whitespaces", False))
        stored = vocabulary.stored
        normal = [np.float32(vocabulary.scores[i]) for i, kind in enumerate(stored) if kind is Kind.NORMAL]
        self._unknown_score = float(min(normal, default=np.float32(0)) - np.float32(_UNKNOWN_PENALTY))
        self._tokens: dict[bytes, tuple[int, float]] = {}
        self._lengths: dict[bytes, list[int]] = {}
        self._user_prefixes: set[bytes] = set()
        for index, (text, kind) in enumerate(zip(vocabulary.texts, stored, strict=True)):
            token = text.encode("utf-8", "surrogateescape")
            if kind in (Kind.NORMAL, Kind.USER_DEFINED, Kind.UNUSED):
                score = 0.0 if kind is Kind.USER_DEFINED else vocabulary.scores[index]
                self._tokens[token] = (index, score)
                if len(token) >= _KEY:
                    self._lengths.setdefault(token[:_KEY], []).append(len(token))
            if kind is Kind.USER_DEFINED:
                self._user_prefixes.update(token[:end] for end in range(1, len(token) + 1))
        for start, lengths in self._lengths.items():
            self._lengths[start] = sorted(set(lengths))

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Ids of `text`; characters that no token covers become one unknown token for each run of them."""
        data = self._normalized(text.encode())
        if not data:
            return []
        infinity = float("inf")
        best = [-infinity] * (len(data) + 1)
        came: list[tuple[int, int]] = [(self._unknown, 0)] * (len(data) + 1)
        best[0] = 0.0
        at = 0
        while at < len(data):
            width = min(_width(data[at]), len(data) - at)
            covered = False
            here = best[at]
            for length in self._candidates(data, at):
                known = self._tokens.get(data[at : at + length])
                if known is None or at + length > len(data):
                    continue
                covered |= length == width
                score = here + known[1]
                if score > best[at + length]:
                    best[at + length], came[at + length] = score, (known[0], at)
            if not covered and here + self._unknown_score > best[at + width]:
                best[at + width], came[at + width] = here + self._unknown_score, (self._unknown, at)
            at += width
        return self._path(came)

    def _candidates(self, data: bytes, at: int) -> list[int]:
        """Lengths of the tokens that could begin at `at`, ascending."""
        short = [n for n in range(1, _KEY) if data[at : at + n] in self._tokens]
        return short + self._lengths.get(data[at : at + _KEY], [])

    def _path(self, came: list[tuple[int, int]]) -> list[int]:
        ids: list[int] = []
        at = len(came) - 1
        unknown = False
        while True:
            index, start = came[at]
            if not (unknown and index == self._unknown):
                ids.append(index)
            if start == 0:
                return ids[::-1]
            unknown = index == self._unknown
            at = start

    def _normalized(self, text: bytes) -> bytes:
        """`text` by the rules of the charsmap, with spaces written as U+2581 and added or merged as the file says."""
        space = SPACE.encode()
        made = bytearray()
        prefixed = inside = False
        at = 0
        while at < len(text):
            piece, used = self._next(text, at)
            at += used
            for byte in piece:
                if byte != 0x20:
                    if not inside:
                        inside = True
                        if (self._prefix and not prefixed) or self._merge:
                            made += space
                            prefixed = True
                    made.append(byte)
                else:
                    inside = False
                    if not self._merge:
                        made += space
        return bytes(made)

    def _next(self, text: bytes, at: int) -> tuple[bytes, int]:
        """What the next bytes of the text become, and how many they are."""
        end = at
        while end < len(text) and text[at : end + 1] in self._user_prefixes:
            end += 1
        if end > at:
            return text[at:end], end - at
        if self._charsmap is not None:
            found = self._charsmap.longest(text, at)
            if found is not None:
                return found
        width = _width(text[at])
        whole = text[at : at + width]
        if text[at] & 0xC0 == 0x80 or len(whole) < width or any(byte & 0xC0 != 0x80 for byte in whole[1:]):
            return _REPLACEMENT, 1
        return whole, width


def _width(first: int) -> int:
    """Bytes of a UTF-8 character, by its first byte."""
    return 4 if first >= 0xF0 else 3 if first >= 0xE0 else 2 if first >= 0xC0 else 1

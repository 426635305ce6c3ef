"""BERT's WordPiece: the longest token that fits, from the left, word by word."""

from __future__ import annotations

from functools import lru_cache

from ggquant.tokenizing.characters import base_letters, category_of, lowercase, whitespace
from ggquant.tokenizing.vocabulary import SPACE, Vocabulary

_CACHED_WORDS = 1 << 17
_IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B81F),
    (0x2B920, 0x2CEAF),  # Unicode's block begins at 2B820; the tokenizers library has it like this
    (0x2F800, 0x2FA1F),
)
"""Characters that are words of their own."""


class WordPieces:
    """Text without special tokens to ids, for model bert."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        get = vocabulary.metadata.get
        self._ids = vocabulary.ids
        self._unknown = vocabulary.special.get("unk")
        self._longest = max(map(len, vocabulary.texts))
        self._lowercase = bool(get("tokenizer.ggml.normalizer.lowercase", True))
        self._strip = bool(get("tokenizer.ggml.normalizer.strip_accents", self._lowercase))
        self._pieces = lru_cache(_CACHED_WORDS)(self._split)

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Ids of `text`; a word with a part that is in no token is the unknown token."""
        return [index for word in self._words(text) for index in self._pieces(word)]

    def _words(self, text: str) -> list[str]:
        if self._strip:
            text = text.translate(base_letters())
        space, lower = whitespace(), lowercase() if self._lowercase else {}
        words: list[str] = []
        word: list[str] = []
        for character in text:
            point = ord(character)
            kind = category_of(point)
            if point in space:
                words.append("".join(word))
                word.clear()
            elif point in (0, 0xFFFD) or kind == "C" or (self._strip and kind == "M"):
                continue
            elif kind == "P" or (kind == "S" and point < 0x7F) or _is_ideograph(point):
                words += ("".join(word), chr(lower.get(point, point)))
                word.clear()
            else:
                word.append(chr(lower.get(point, point)))
        return [found for found in (*words, "".join(word)) if found]

    def _split(self, word: str) -> tuple[int, ...]:
        text = SPACE + word
        found: list[int] = []
        at = 0
        while at < len(text):
            for end in range(min(len(text), at + self._longest), at, -1):
                index = self._ids.get(text[at:end])
                if index is not None:
                    break
            else:
                return () if self._unknown is None else (self._unknown,)
            found.append(index)
            at = end
        return tuple(found)


def _is_ideograph(point: int) -> bool:
    return point >= 0x3400 and any(first <= point <= last for first, last in _IDEOGRAPHS)

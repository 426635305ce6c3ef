"""RWKV's tokenizer: the longest token that fits, byte by byte."""

from __future__ import annotations

from ggquant.tokenizing.text import unescaped_rwkv
from ggquant.tokenizing.vocabulary import Vocabulary


class LongestBytes:
    """Text without special tokens to ids, for model rwkv."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens = [unescaped_rwkv(text) for text in vocabulary.texts]
        self._ids = {token: index for index, token in enumerate(tokens)}
        self._lengths: dict[bytes, list[int]] = {}
        for token in self._ids:
            self._lengths.setdefault(token[:2], []).append(len(token))
        for start, lengths in self._lengths.items():
            self._lengths[start] = sorted(set(lengths), reverse=True)
        self._unknown = vocabulary.special.get("unk", 0)

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Ids of `text`; a byte that begins no token is the unknown token."""
        data = text.encode()
        ids: list[int] = []
        at = 0
        while at < len(data):
            lengths = (*self._lengths.get(data[at : at + 2], ()), 1)
            length = next((n for n in lengths if data[at : at + n] in self._ids), 0)
            ids.append(self._ids[data[at : at + length]] if length else self._unknown)
            at += length or 1
        return ids

"""SentencePiece's BPE: neighbours are joined wherever the vocabulary has the result, best score first."""

from __future__ import annotations

from functools import lru_cache
from heapq import heappop, heappush

from ggquant.errors import MalformedFileError
from ggquant.tokenizing.vocabulary import SPACE, Vocabulary

_CACHED_WORDS = 1 << 17


class ScoredPieces:
    """Text without special tokens to ids, for model llama."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._ids = vocabulary.ids
        self._scores = vocabulary.scores
        # Where no token goes on past a space, words cannot influence each other, and can be remembered.
        self._by_word = not any(SPACE in text.lstrip(SPACE) for text in vocabulary.texts)
        self._joined = lru_cache(_CACHED_WORDS)(self._join)

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Ids of `text`, whose spaces are written as U+2581 on the way."""
        text = text.replace(" ", SPACE)
        if not self._by_word:
            return self._join(text)
        ids: list[int] = []
        start = 0
        while start < len(text):
            end = start
            while end < len(text) and text[end] == SPACE:
                end += 1
            end = text.find(SPACE, end)
            end = len(text) if end < 0 else end
            ids += self._joined(text[start:end])
            start = end
        return ids

    def _join(self, text: str) -> list[int]:
        parts = list(text)
        before = list(range(-1, len(parts) - 1))
        after = [*range(1, len(parts)), -1]
        queue: list[tuple[float, int, int, int]] = []

        def offer(left: int, right: int) -> None:
            if left < 0 or right < 0:
                return
            joined = parts[left] + parts[right]
            index = self._ids.get(joined)
            if index is not None:
                heappush(queue, (-self._scores[index], left, right, len(joined)))

        for right in range(1, len(parts)):
            offer(right - 1, right)
        while queue:
            _, left, right, length = heappop(queue)
            if not parts[left] or not parts[right] or len(parts[left]) + len(parts[right]) != length:
                continue
            parts[left] += parts[right]
            parts[right] = ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [index for part in parts if part for index in self._ids_of(part)]

    def _ids_of(self, part: str) -> list[int]:
        index = self._ids.get(part)
        return [index] if index is not None else [self._byte(byte) for byte in part.encode()]

    def _byte(self, byte: int) -> int:
        index = self._ids.get(f"<0x{byte:02X}>", self._ids.get(chr(byte)) if byte < 0x80 else None)
        if index is None:
            path = self._vocabulary.path
            raise MalformedFileError(f"{path}: the vocabulary has no token for the byte 0x{byte:02X}", file=path)
        return index

"""SentencePiece's precompiled normalization rules: a double-array trie and the texts that it leads to.

The layout is Darts-clone's: 4 bytes with the size of the trie, the trie's 32-bit units, then replacement texts that
each end in a zero byte.
"""

from __future__ import annotations

import struct

from ggquant.errors import MalformedFileError


class CharsMap:
    """Replacements by longest prefix."""

    def __init__(self, data: bytes, path: str) -> None:
        self._path = path
        if len(data) < 4 or 4 + struct.unpack_from("<I", data)[0] >= len(data):
            raise self._damaged()
        size = struct.unpack_from("<I", data)[0]
        self._units: tuple[int, ...] = struct.unpack_from(f"<{size // 4}I", data, 4)
        self._texts = data[4 + size :]

    def longest(self, text: bytes, start: int) -> tuple[bytes, int] | None:
        """The replacement for the longest known beginning of `text[start:]`, and how many bytes it replaces."""
        node = _offset(self._unit(0))
        found: tuple[int, int] | None = None
        for at in range(start, len(text)):
            byte = text[at]
            if byte == 0:
                break
            node ^= byte
            unit = self._unit(node)
            if unit & (1 << 31 | 0xFF) != byte:
                break
            node ^= _offset(unit)
            if unit >> 8 & 1:
                found = (self._unit(node) & (1 << 31) - 1, at - start + 1)
        if found is None:
            return None
        begin, length = found
        end = self._texts.find(b"\0", begin)
        if begin >= len(self._texts) or end < 0:
            raise self._damaged()
        return self._texts[begin:end], length

    def _unit(self, index: int) -> int:
        if index >= len(self._units):
            raise self._damaged()
        return self._units[index]

    def _damaged(self) -> MalformedFileError:
        return MalformedFileError(f"{self._path}: tokenizer.ggml.precompiled_charsmap is damaged", file=self._path)


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 1 << 9) >> 6)

"""The wire format of protocol buffers: as much as a SentencePiece model file needs."""

from __future__ import annotations

from collections.abc import Iterator

Value = int | bytes
_MAX_VARINT_BYTES = 10


class WireError(ValueError):
    """The bytes are not a protocol buffer message."""


def fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Field numbers and raw values: varints as int, everything else as bytes (4 or 8 for fixed widths).

    Raises:
        WireError: truncated data, or a wire type that no message has.
    """
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise WireError("field number 0")
        if kind == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise WireError(f"wire type {kind}")
        if length > end - position:
            raise WireError("truncated")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise WireError("truncated or oversized number")

"""Facts of the block formats, as the native registry states them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from ggquant import _native
from ggquant.errors import UsageError


@dataclass(frozen=True, slots=True)
class FormatInfo:
    """What a block format stores.

    Attributes:
        name: name as ggml spells it, in capitals (`Q4_K`).
        ggml_type: id in GGUF files.
        block_len: weights in a block; a row must be a whole number of blocks.
        block_bytes: bytes of a block.
        bits_per_weight: stored bits per weight, scales included.
        imatrix: whether the encoder ignores, accepts or requires an importance matrix.
        storage: False for the activation formats Q8_1 and Q8_K, which files do not use for weights.
        summary: one line for tables.
    """

    name: str
    ggml_type: int
    block_len: int
    block_bytes: int
    bits_per_weight: float
    imatrix: Literal["ignored", "optional", "required"]
    storage: bool
    summary: str

    def row_bytes(self, row_len: int) -> int | None:
        """Bytes of a row of `row_len` weights, or None if that is not a whole number of blocks."""
        return None if row_len % self.block_len else row_len // self.block_len * self.block_bytes


@cache
def _registry() -> dict[str, FormatInfo]:
    return {str(facts["name"]): FormatInfo(**facts) for facts in _native.formats()}


def formats() -> list[FormatInfo]:
    """All block formats, plain floats included, in the registry's order."""
    return list(_registry().values())


def format_info(name: str) -> FormatInfo:
    """The format called `name`, in any case.

    Raises:
        UsageError: there is no such format; the message lists them.
    """
    info = _registry().get(str(name).upper())
    if info is None:
        known = ", ".join(_registry())
        raise UsageError(f"unknown block format '{name}'; known formats: {known}")
    return info

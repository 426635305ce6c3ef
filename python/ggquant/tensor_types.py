"""Facts of the GGUF tensor types: how many weights make a block and how many bytes it takes.

The encoders live in the native module; a plan needs only these numbers, so that every size and offset is
known from headers alone. Source: the GGUF specification and the block layouts documented in the native
registry.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

__all__ = [
    "FALLBACK",
    "FORMATS",
    "FormatFacts",
    "Kind",
    "UnknownFormatError",
    "format_facts",
    "tensor_bytes",
]


class Kind(Enum):
    """What a tensor type stores."""

    FLOAT = "float"
    """Plain floats."""
    BLOCK = "block"
    """Blocks of quantized weights."""
    ACTIVATION = "activation"
    """Blocks that only matrix multiplication makes; no file holds them."""
    OTHER = "other"
    """Integers and double floats: kept as they are, never a target."""


@dataclass(frozen=True, slots=True)
class FormatFacts:
    """The facts of one tensor type.

    `summary` says in a few words what a block stores; `bits` are the bits of a code without its scales.
    """

    name: str
    ggml_type: int
    block_len: int
    block_bytes: int
    kind: Kind
    summary: str

    @property
    def bits_per_weight(self) -> float:
        """Bits stored per weight, scales included."""
        return self.block_bytes * 8 / self.block_len

    @property
    def is_target(self) -> bool:
        """Whether a tensor can be converted to this type."""
        return self.kind in (Kind.FLOAT, Kind.BLOCK)

    def row_bytes(self, row_len: int) -> int:
        """Bytes of a row of `row_len` weights; ValueError if blocks do not divide it."""
        if row_len % self.block_len:
            raise ValueError(
                f"{self.name} stores blocks of {self.block_len} weights; they do not fill a row of {row_len}"
            )
        return row_len // self.block_len * self.block_bytes


def _table() -> dict[str, FormatFacts]:
    """Builds `FORMATS` from one line a type."""
    f, b, a, o = Kind.FLOAT, Kind.BLOCK, Kind.ACTIVATION, Kind.OTHER
    rows: tuple[tuple[str, int, int, int, Kind, str], ...] = (
        ("F32", 0, 1, 4, f, "32-bit float"),
        ("F16", 1, 1, 2, f, "16-bit float (IEEE half)"),
        ("BF16", 30, 1, 2, f, "16-bit float (bfloat16)"),
        ("Q4_0", 2, 32, 18, b, "4-bit codes, one f16 scale per 32"),
        ("Q4_1", 3, 32, 20, b, "4-bit codes, f16 scale and minimum per 32"),
        ("Q5_0", 6, 32, 22, b, "5-bit codes, one f16 scale per 32"),
        ("Q5_1", 7, 32, 24, b, "5-bit codes, f16 scale and minimum per 32"),
        ("Q8_0", 8, 32, 34, b, "8-bit codes, one f16 scale per 32"),
        ("Q2_K", 10, 256, 84, b, "2-bit codes, 4-bit scales and minima per 16"),
        ("Q3_K", 11, 256, 110, b, "3-bit codes, 6-bit scales per 16"),
        ("Q4_K", 12, 256, 144, b, "4-bit codes, 6-bit scales and minima per 32"),
        ("Q5_K", 13, 256, 176, b, "5-bit codes, 6-bit scales and minima per 32"),
        ("Q6_K", 14, 256, 210, b, "6-bit codes, 8-bit scales per 16"),
        ("IQ1_S", 19, 256, 50, b, "codebook of 8-vectors with entries -1, 0, 1, 3-bit scales per 32"),
        ("IQ1_M", 29, 256, 56, b, "codebook of 8-vectors with entries -1, 0, 1, 3-bit scales per 16"),
        ("IQ2_XXS", 16, 256, 66, b, "codebook of 256 8-vectors plus signs, 4-bit scales per 32"),
        ("IQ2_XS", 17, 256, 74, b, "codebook of 512 8-vectors plus signs, 4-bit scales per 16"),
        ("IQ2_S", 22, 256, 82, b, "codebook of 1024 8-vectors plus signs, 4-bit scales per 16"),
        ("IQ3_XXS", 18, 256, 98, b, "codebook of 256 4-vectors plus signs, 4-bit scales per 32"),
        ("IQ3_S", 21, 256, 110, b, "codebook of 512 4-vectors plus signs, 4-bit scales per 32"),
        ("IQ4_NL", 20, 32, 18, b, "4-bit non-linear codes, one f16 scale per 32"),
        ("IQ4_XS", 23, 256, 136, b, "4-bit non-linear codes, 6-bit scales per 32"),
        ("TQ1_0", 34, 256, 54, b, "ternary, five weights in eight bits, one f16 scale per 256"),
        ("TQ2_0", 35, 256, 66, b, "ternary, 2-bit codes, one f16 scale per 256"),
        ("MXFP4", 39, 32, 17, b, "4-bit floats (E2M1), one power-of-two scale per 32"),
        ("NVFP4", 40, 64, 36, b, "4-bit floats (E2M1), one UE4M3 scale per 16"),
        ("Q1_0", 41, 128, 18, b, "signs, one f16 scale per 128"),
        ("Q2_0", 42, 64, 18, b, "2-bit codes, one f16 scale per 64"),
        ("Q8_1", 9, 32, 36, a, "8-bit activations with scale and scaled sum"),
        ("Q8_K", 15, 256, 292, a, "8-bit activations with f32 scale and sums per 16"),
        ("I8", 24, 1, 1, o, "8-bit integer"),
        ("I16", 25, 1, 2, o, "16-bit integer"),
        ("I32", 26, 1, 4, o, "32-bit integer"),
        ("I64", 27, 1, 8, o, "64-bit integer"),
        ("F64", 28, 1, 8, o, "64-bit float"),
    )
    return {row[0]: FormatFacts(*row) for row in rows}


FORMATS: dict[str, FormatFacts] = _table()
"""Every tensor type by name."""

FALLBACK: dict[str, str] = {
    "IQ1_S": "IQ4_NL",
    "IQ1_M": "IQ4_NL",
    "IQ2_XXS": "IQ4_NL",
    "IQ2_XS": "IQ4_NL",
    "IQ2_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
    "Q2_0": "Q4_0",
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
"""What takes a format's place where its blocks do not divide a row. F16 where that does not fit either;
formats with blocks of 32 go to F16 directly; formats in neither group have no stand-in."""


class UnknownFormatError(ValueError):
    """A name that no tensor type has."""


def format_facts(name: str) -> FormatFacts:
    """The tensor type called `name`, in any case; UnknownFormatError lists the names there are."""
    found = FORMATS.get(name.upper())
    if found is None:
        raise UnknownFormatError(f"unknown format '{name}'; known formats: {', '.join(FORMATS)}")
    return found


def tensor_bytes(shape: Iterable[int], name: str) -> int:
    """Bytes of a tensor of numpy-order `shape` (last dimension is the row) stored as `name`, without
    padding."""
    dims = tuple(shape)
    rows = 1
    for d in dims[:-1]:
        rows *= d
    return rows * format_facts(name).row_bytes(dims[-1] if dims else 1)

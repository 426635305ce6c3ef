"""Writes adversarial.txt: digests of what ggml makes of adversarial rows.

    python adversarial.py path/to/libggml-base.so

The library must be built for x86-64 without -march flags, as llama.cpp's CMake build does it for ggml-base.
Rows and importance matrices are those of tests/common/rows.rs, number by number and bit by bit.

Each line: format, plain/imatrix/decode, kind of row, digest. A digest is FNV-1a (64 bits) over the bytes of
all rows of the kind, or for `decode`, over the bits of all weights decoded from random bytes, with NaNs made
equal first.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
F32 = npt.NDArray[np.float32]

SEED = 20240229
ROUNDS = 24
KINDS = 24
WEIGHT_KINDS = 10
# Rows of another seed for which the weighted search ends on a negative scale for some sub-block.
NEGATIVE_SEED = 5
# fmt: off
NEGATIVE = [
    5411, 14983, 41329, 41418, 44898, 48480, 50328, 52475, 56719, 59691, 64128, 71424, 75931, 77506,
    77863, 80496, 83053, 83651, 84091, 85043, 89922, 90034, 97797, 100842, 103512, 111658, 112723, 114621,
]
# fmt: on
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15

# name: (ggml type, weights in a block, bytes in a block)
FORMATS = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "BF16": (30, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q8_1": (9, 32, 36),
    "Q1_0": (41, 128, 18),
    "Q2_0": (42, 64, 18),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "Q8_K": (15, 256, 292),
    "TQ1_0": (34, 256, 54),
    "TQ2_0": (35, 256, 66),
    "MXFP4": (39, 32, 17),
    "NVFP4": (40, 64, 36),
}


def mix(z: U64) -> U64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def mix_one(z: int) -> int:
    return int(mix(np.array([z & MASK], np.uint64))[0])


class Stream:
    """Random numbers by position."""

    def __init__(self, seed: int, index: int) -> None:
        self.key = mix_one(mix_one(seed) + index * GOLDEN)

    def at(self, positions: U64) -> U64:
        return mix(np.uint64(self.key) + (positions + np.uint64(1)) * np.uint64(GOLDEN))

    def param(self, k: int) -> int:
        return int(self.at(np.array([(1 << 32) + k], np.uint64))[0])

    def ranged(self, k: int, low: int, span: int) -> int:
        return low + self.param(k) % span


def pow2(e: int) -> np.float32:
    return np.float32(2.0**e)


def bits(values: npt.NDArray[Any]) -> F32:
    return values.astype(np.uint32).view(np.float32)


def unit(h: U64) -> F32:
    return ((h >> np.uint64(40)).astype(np.int64) - (1 << 23)).astype(np.float32) * pow2(-23)


def bell(h: U64) -> F32:
    total = sum((h >> np.uint64(16 * k)) & np.uint64(0xFFFF) for k in range(4))
    return (np.asarray(total).astype(np.int64) - 131070).astype(np.float32) * pow2(-16)


def low32(h: U64) -> U64:
    return h & np.uint64(0xFFFFFFFF)


def any_float(h: U64) -> F32:
    b = low32(h)
    infinite = (b & np.uint64(0x7F800000)) == np.uint64(0x7F800000)
    return bits(np.where(infinite, b & np.uint64(0xBFFFFFFF), b))


def with_exponent(h: U64, exponent: U64 | int) -> F32:
    return bits((h & np.uint64(0x807FFFFF)) | (np.asarray(exponent, np.uint64) << np.uint64(23)))


def scales(exponents: npt.NDArray[np.int64]) -> F32:
    return bits((exponents + 127) << 23)


def row(seed: int, index: int, length: int) -> F32:
    s = Stream(seed, index)
    moderate = pow2(s.ranged(0, -20, 25))
    wide = pow2(s.ranged(1, -126, 252))
    constant = any_float(np.array([s.param(2)], np.uint64))[0]
    exponent = 1 + s.param(3) % 246
    hot = s.param(4) % length
    i = np.arange(length, dtype=np.uint64)
    h = s.at(i)
    upper = h >> np.uint64(32)
    zero = np.float32(0)

    def remainder(value: U64, n: int) -> npt.NDArray[np.int64]:
        return (value % np.uint64(n)).astype(np.int64)

    def of_group(size: int) -> U64:
        return mix(s.at(np.uint64(1 << 33) + i // np.uint64(size)))

    match index % KINDS:
        case 0:
            return bell(h) * moderate
        case 1:
            return unit(h) * wide
        case 2:
            return any_float(h)
        case 3:
            return with_exponent(h, np.uint64(exponent) + upper % np.uint64(8))
        case 4:
            return bits(h & np.uint64(0x80000000))
        case 5:
            return np.full(length, constant, np.float32)
        case 6:
            return np.where(i == hot, constant, zero).astype(np.float32)
        case 7:
            return (remainder(h, 33) - 16).astype(np.float32) * (np.float32(0.5) * moderate)
        case 8:
            return bits(h & np.uint64(0x807FFFFF))
        case 9:
            base = (exponent << 23) | (s.param(5) & 0x7FFFF8)
            return bits(((i & np.uint64(1)) << np.uint64(31)) | np.uint64(base) | (h & np.uint64(7)))
        case 10:
            return bell(h) * np.where(remainder(mix(h), 61) == 0, np.float32(1024) * moderate, moderate)
        case 11:
            return (unit(h) + np.float32(4 if s.param(6) % 2 == 0 else -4)) * moderate
        case 12:
            below = of_group(32) % np.uint64(100) + h % np.uint64(4)
            magnitude = np.uint64((exponent << 23) + 8) - below
            return bits(magnitude | (upper & np.uint64(0x80000000)))
        case 13:
            return unit(h) * scales(remainder(of_group(16), 40) - 20)
        case 14:
            return (remainder(h, 3) - 1).astype(np.float32) * moderate
        case 15:
            return unit(h) * scales(remainder(of_group(16), 4) - 51)
        case 16:
            return with_exponent(h, np.uint64(249) + upper % np.uint64(6))
        case 17:
            return unit(h) * pow2(s.ranged(8, 12, 13) if s.param(7) % 2 == 0 else s.ranged(8, -30, 24))
        case 18:
            return (i.astype(np.int64) - length // 2).astype(np.float32) * moderate
        case 19:
            return ((bell(h) * moderate).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        case 20:
            return np.where(remainder(of_group(32), 2) == 0, unit(h) * moderate, zero)
        case 21:
            choice = remainder(h, 4)
            tiny = bits(upper & np.uint64(0x807FFFFF))
            signed_zero = bits(upper & np.uint64(0x80000000))
            return np.where(choice == 0, tiny, np.where(choice == 1, signed_zero, bell(mix(h)) * moderate))
        case 22:
            choice = remainder(h, 5)
            return np.where(choice == 0, moderate, np.where(choice == 1, -moderate, unit(mix(h)) * moderate))
        case _:
            return remainder(h, 16).astype(np.float32) * moderate


def weights(seed: int, index: int, length: int) -> F32:
    s = Stream(~seed & MASK, index)
    i = np.arange(length, dtype=np.uint64)
    h = s.at(i)
    upper = h >> np.uint64(32)
    fraction = (h >> np.uint64(40)).astype(np.float32) * pow2(-24)
    zero = np.float32(0)
    match s.param(0) % WEIGHT_KINDS:
        case 0:
            return np.ones(length, np.float32)
        case 1:
            return fraction
        case 2:
            return np.where(h % np.uint64(8) == 0, fraction, zero)
        case 3:
            return np.zeros(length, np.float32)
        case 4:
            return fraction * scales((h % np.uint64(40)).astype(np.int64) - 20)
        case 5:
            return np.abs(any_float(h))
        case 6:
            return np.abs(with_exponent(h, np.uint64(240) + upper % np.uint64(15)))
        case 7:
            return np.abs(with_exponent(h, upper % np.uint64(20)))
        case 8:
            group = mix(s.at(np.uint64(1 << 33) + i // np.uint64(32)))
            return np.where(group % np.uint64(2) == 0, fraction, zero)
        case _:
            return bell(h) * bell(h)


def row_length(block: int, index: int) -> int:
    """Lengths vary, so that sums over a row and rows of several super-blocks are covered."""
    turn = index // KINDS
    if block == 1:
        return 64
    return block * (1 + turn % (3 if block == 256 else 7))


def cases(block: int, kind: int) -> Iterator[tuple[int, int, int]]:
    """Seed, number and length of each row of a kind; the rows with negative scales are one more kind."""
    if kind == KINDS:
        for index in NEGATIVE:
            yield NEGATIVE_SEED, index, 256
    else:
        for index in range(kind, KINDS * ROUNDS, KINDS):
            yield SEED, index, row_length(block, index)


def random_bytes(index: int, length: int) -> npt.NDArray[np.uint8]:
    words = Stream(SEED + 1, index).at(np.arange((length + 7) // 8, dtype=np.uint64))
    return words.astype("<u8").view(np.uint8)[:length]


def fnv(state: int, values: npt.NDArray[Any]) -> int:
    for value in values.tolist():
        state = ((state ^ value) * 0x100000001B3) & MASK
    return state


class Oracle:
    """ggml-base."""

    def __init__(self, path: str) -> None:
        self.lib = ctypes.CDLL(path)
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.lib.ggml_get_type_traits.restype = ctypes.c_void_p

    @staticmethod
    def pointer(array: npt.NDArray[Any]) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    def encode(self, name: str, x: F32, imatrix: F32 | None) -> npt.NDArray[np.uint8]:
        kind, block, size = FORMATS[name]
        out = np.zeros(len(x) // block * size, np.uint8)
        if name in ("Q8_1", "Q8_K"):
            function = getattr(self.lib, f"quantize_row_{name[:3].lower()}{name[3]}_ref")
            function(self.pointer(x), self.pointer(out), ctypes.c_int64(len(x)))
            return out
        importance = None if imatrix is None else self.pointer(imatrix)
        args = (ctypes.c_int64(0), ctypes.c_int64(1), ctypes.c_int64(len(x)), importance)
        written = self.lib.ggml_quantize_chunk(kind, self.pointer(x), self.pointer(out), *args)
        assert written == len(out)
        return out

    def decode(self, name: str, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32] | None:
        """Bits of the weights, or None where ggml has no decoder."""

        class Traits(ctypes.Structure):
            _fields_ = (
                ("name", ctypes.c_char_p),
                ("block", ctypes.c_int64),
                ("interleave", ctypes.c_int64),
                ("size", ctypes.c_size_t),
                ("is_quantized", ctypes.c_bool),
                ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
            )

        kind, block, size = FORMATS[name]
        if name == "Q8_K":
            weights = np.zeros(len(data) // size * block, np.float32)
            count = ctypes.c_int64(len(weights))
            self.lib.dequantize_row_q8_K(self.pointer(data), self.pointer(weights), count)
            return self.float_bits(weights)
        traits = Traits.from_address(self.lib.ggml_get_type_traits(kind))
        if not traits.to_float:
            return None
        out = np.zeros(len(data) // size * block, np.float32)
        traits.to_float(data.ctypes.data, out.ctypes.data, len(out))
        return self.float_bits(out)

    @staticmethod
    def float_bits(values: F32) -> npt.NDArray[np.uint32]:
        return np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32))


def main() -> None:
    oracle = Oracle(sys.argv[1])
    lines = []
    for name, (_, block, size) in FORMATS.items():
        for kind in range(KINDS + 1):
            digests = dict.fromkeys(("plain", "imatrix", "decode"), 0xCBF29CE484222325)
            for seed, index, length in cases(block, kind):
                x = np.ascontiguousarray(row(seed, index, length), np.float32)
                w = np.ascontiguousarray(weights(seed, index, length), np.float32)
                assert len(x) == len(w) == length and np.isfinite(x).all() and np.isfinite(w).all() and (w >= 0).all()
                digests["plain"] = fnv(digests["plain"], oracle.encode(name, x, None))
                digests["imatrix"] = fnv(digests["imatrix"], oracle.encode(name, x, w))
                if name != "F32":
                    decoded = oracle.decode(name, random_bytes(index, length // block * size))
                    if decoded is not None:
                        digests["decode"] = fnv(digests["decode"], decoded)
            for what, digest in digests.items():
                if digest != 0xCBF29CE484222325:
                    lines.append(f"{name} {what} {kind} {digest:016x}")
        print(name, file=sys.stderr)
    (Path(__file__).parent / "adversarial.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

"""Writes adversarial_iq.txt: digests of what ggml makes of adversarial rows in the i-quants.

    python adversarial_iq.py path/to/libggml-base.so

Rows, importance matrices and digests are those of adversarial.py, on whose library the same condition holds.

Each line: format, plain/imatrix/decode, kind of row, digest, skipped. ggml aborts where its sums overflow:
bit `r` of `skipped` (hexadecimal) says that it did for round `r`, which is then left out of the digest.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adversarial as common
import numpy as np
import numpy.typing as npt

# name: (ggml type, weights in a block, bytes in a block)
FORMATS = {
    "IQ1_S": (19, 256, 50),
    "IQ1_M": (29, 256, 56),
    "IQ2_XXS": (16, 256, 66),
    "IQ2_XS": (17, 256, 74),
    "IQ2_S": (22, 256, 82),
    "IQ3_XXS": (18, 256, 98),
    "IQ3_S": (21, 256, 110),
    "IQ4_NL": (20, 32, 18),
    "IQ4_XS": (23, 256, 136),
}
NEEDS_IMATRIX = ("IQ1_S", "IQ2_XXS", "IQ2_XS")
EMPTY = 0xCBF29CE484222325
# The longest row is 3 * 256 weights of at most 110 bytes a block.
SLOT = 512
# Where a ternary search overflows, ggml reads up to 2048 weights from the middle of the row on. NaN behind
# the row makes it find nothing there.
BEHIND = np.full(2048, np.nan, np.float32)

Bytes = npt.NDArray[np.uint8]


def survivors(work: list[Callable[[], Bytes]]) -> list[Bytes | None]:
    """Runs each piece of work in a child process; None where that died."""
    results: list[Bytes | None] = [None] * len(work)
    shared = mmap.mmap(-1, 8 + SLOT * len(work))
    position = np.frombuffer(shared, np.uint64, 1)
    slots = np.frombuffer(shared, np.uint8, SLOT * len(work), 8).reshape(-1, SLOT)
    sizes = [0] * len(work)
    start = 0
    while start < len(work):
        child = os.fork()
        if child == 0:
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            for i in range(start, len(work)):
                position[0] = i
                data = work[i]()
                slots[i, :2] = np.frombuffer(len(data).to_bytes(2, "little"), np.uint8)
                slots[i, 2 : 2 + len(data)] = data
            position[0] = len(work)
            os._exit(0)
        os.waitpid(child, 0)
        start = int(position[0]) + 1
    for i in range(len(work)):
        sizes[i] = int.from_bytes(slots[i, :2].tobytes(), "little")
        if sizes[i]:
            results[i] = slots[i, 2 : 2 + sizes[i]].copy()
    return results


def balanced_row(r: int) -> common.F32:
    """Large weights whose sums cancel but whose squares overflow, among small ones."""
    i = np.arange(512)
    large = np.float32(2.0 ** (36 + r // 2)) * (1 - 2 * (i % 2))
    return np.where((i // 16 + r) % 3 == 0, i * 7 % 13, large).astype(np.float32)


def main() -> None:
    os.environ["GGML_NO_BACKTRACE"] = "1"
    common.FORMATS.update(FORMATS)
    oracle = common.Oracle(sys.argv[1])
    lines = []

    def encoding(name: str, index: int, weighted: bool) -> Callable[[], Bytes]:
        def work() -> Bytes:
            length = common.row_length(FORMATS[name][1], index)
            x = common.row(common.SEED, index, length).astype(np.float32)
            w = common.weights(common.SEED, index, length).astype(np.float32) if weighted else None
            return oracle.encode(name, np.concatenate([x, BEHIND])[: len(x)], w)

        return work

    def balanced(name: str, r: int, weighted: bool) -> Callable[[], Bytes]:
        def work() -> Bytes:
            x = np.concatenate([balanced_row(r), BEHIND])[:512]
            return oracle.encode(name, x, np.ones(512, np.float32) if weighted else None)

        return work

    def add(name: str, what: str, k: int, rows: list[Bytes | None]) -> None:
        digest, skipped = EMPTY, 0
        for r, data in enumerate(rows):
            if data is None:
                skipped |= 1 << r
            else:
                digest = common.fnv(digest, data)
        lines.append(f"{name} {what} {k} {digest:016x} {skipped:x}")

    for name, (kind, block, size) in FORMATS.items():
        oracle.lib.ggml_quantize_init(kind)
        for what in ("plain", "imatrix"):
            if what == "plain" and name in NEEDS_IMATRIX:
                continue
            indices = range(common.KINDS * common.ROUNDS)
            rows = survivors([encoding(name, index, what == "imatrix") for index in indices])
            for k in range(common.KINDS):
                add(name, what, k, rows[k :: common.KINDS])
            if name.startswith("IQ1"):
                rounds = [balanced(name, r, what == "imatrix") for r in range(common.ROUNDS)]
                add(name, what, common.KINDS, survivors(rounds))
        for k in range(common.KINDS):
            digest = EMPTY
            for index in range(k, common.KINDS * common.ROUNDS, common.KINDS):
                length = common.row_length(block, index)
                decoded: Any = oracle.decode(name, common.random_bytes(index, length // block * size))
                digest = common.fnv(digest, decoded)
            lines.append(f"{name} decode {k} {digest:016x} 0")
        print(name, file=sys.stderr)
    (Path(__file__).parent / "adversarial_iq.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

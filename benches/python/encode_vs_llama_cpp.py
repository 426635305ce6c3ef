"""Encoders of ggquant against those of ggml, and both directions against memory: Markdown tables.

    python benches/python/encode_vs_llama_cpp.py [--library libggml-base.so] [--weights 16] [--rounds 5] [FORMAT ...]
    python benches/python/encode_vs_llama_cpp.py --memory [--threads 2] [FORMAT ...]

The library is that of an installed llama-cpp-python unless `--library` names another build. Both libraries live in
this process and encode the same rows in turns, into memory that was written before; every round compares their bytes,
and stops if they differ, unless `--any-bytes` says that the library may differ: one built with `-march=native` fuses
operations. Times are CPU time of the process on one thread. `--memory` compares encoders without a search, and all
decoders, with copying and filling memory on as many threads, in turns as well; times there are wall-clock times.

The weights are a quarter each of: the bundled checkpoint, repeated with noise of its own each time, in rows of 4096;
and heavy-tailed weights (Student's t, 5 degrees of freedom) in rows of 2048, 4096 and 14336.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

import ggquant as gg

CHECKPOINT = Path(__file__).parents[2] / "tests" / "data" / "tinylm" / "model.safetensors"
ROWS = [2048, 4096, 14336]
STORAGE = [info for info in gg.formats() if info.storage and info.bits_per_weight < 16]
# Without a search, given no importances: what limits them should be memory.
LIGHT = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q1_0", "Q2_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"]

Array = npt.NDArray[Any]


def load(path: str | None) -> ctypes.CDLL:
    if path is None:
        import llama_cpp

        path = str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so")
    library = ctypes.CDLL(path)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library


def checkpoint() -> npt.NDArray[np.float32]:
    """Every matrix of the bundled checkpoint, one after the other."""
    data = CHECKPOINT.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    parts = []
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__" and len(entry["shape"]) == 2:
            assert entry["dtype"] == "BF16", entry
            first, last = entry["data_offsets"]
            bits = np.frombuffer(data, np.uint16, (last - first) // 2, start + first)
            parts.append((bits.astype(np.uint32) << 16).view(np.float32))
    return np.concatenate(parts)


def matrices(weights: int) -> list[npt.NDArray[np.float32]]:
    """See the top of this file."""
    rng = np.random.default_rng(0)
    quarter = weights // 4
    own = np.resize(checkpoint(), quarter // 4096 * 4096).reshape(-1, 4096)
    result = [own * (1 + 0.05 * rng.standard_normal(own.shape, np.float32))]
    for row_len in ROWS:
        rows = rng.standard_t(5, (max(quarter // row_len, 1), row_len)) * 0.02
        result.append(rows.astype(np.float32))
    return result


def spread(values: list[float]) -> str:
    return f"{min(values):.1f} - {max(values):.1f}"


def against_ggml(
    library: ctypes.CDLL,
    info: gg.FormatInfo,
    inputs: list[npt.NDArray[np.float32]],
    weighted: bool,
    rounds: int,
    any_bytes: bool,
) -> tuple[float, str]:
    """The median ratio of one encoder, and its line of the table."""
    rng = np.random.default_rng(1)
    jobs = []
    for x in inputs:
        row_len = x.shape[1]
        importance = rng.gamma(1, 1, row_len).astype(np.float32) if weighted else None
        # Both sides write to memory that was written before.
        blocks = np.zeros((2, len(x), info.row_bytes(row_len) or 0), np.uint8)
        jobs.append((x, row_len, importance, *blocks))

    def theirs() -> None:
        for x, row_len, importance, out, _ in jobs:
            pointer = None if importance is None else importance.ctypes.data
            library.ggml_quantize_chunk(info.ggml_type, x.ctypes.data, out.ctypes.data, 0, len(x), row_len, pointer)

    def ours() -> None:
        for x, _, importance, _, out in jobs:
            gg.quantize(x, info.name, imatrix=importance, threads=1, out=out)

    count = sum(x.size for x in inputs)
    # Tables are made when they are first needed, on either side.
    x, row_len, importance, out, _ = jobs[0]
    pointer = None if importance is None else importance.ctypes.data
    library.ggml_quantize_chunk(info.ggml_type, x.ctypes.data, out.ctypes.data, 0, 1, row_len, pointer)
    gg.quantize(x[:1], info.name, imatrix=importance, threads=1)
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        start = time.process_time()
        theirs()
        middle = time.process_time()
        ours()
        end = time.process_time()
        for *_, out, own_out in jobs:
            if not any_bytes and not np.array_equal(own_out, out):
                raise SystemExit(f"{info.name}: the bytes differ")
        times.append((middle - start, end - middle))
    ratios = [their / our for their, our in times]
    their, our = (statistics.median(column) for column in zip(*times, strict=True))
    written = sum(out.nbytes for *_, out in jobs)
    # Rounded down, so that 100% means all of them.
    same = sum(int(np.count_nonzero(own_out == out)) for *_, out, own_out in jobs) * 1000 // written / 10
    ratio = statistics.median(ratios)
    return ratio, (
        f"| {info.name} | {'imatrix' if weighted else 'plain'} | {their / count * 1e9:.1f} | {our / count * 1e9:.2f} | "
        f"{(4 * count + written) / our / 1e9:.2f} | {ratio:.1f} | {spread(ratios)} | {same:.1f}% |"
    )


def in_turns(runs: list[Callable[[], object]], rounds: int) -> list[float]:
    """The best time of each, in turns: what disturbs a run only ever makes it longer."""
    best = [math.inf] * len(runs)
    for _ in range(rounds):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def split(array: Array, threads: int) -> list[Array]:
    return np.array_split(array.reshape(-1), threads)


def memory(formats: list[gg.FormatInfo], weights: int, threads: int, rounds: int) -> None:
    """Encoders without a search, and decoders, against copying and filling."""
    rows = np.concatenate([x.reshape(-1, 2048) for x in matrices(weights)[:3]])
    halves = (rows.view(np.uint32) >> 16).astype(np.uint16).view(ml_dtypes.bfloat16)
    with ThreadPoolExecutor(threads) as pool:

        def copy(source: Array, target: Array) -> None:
            list(pool.map(np.copyto, split(target, threads), split(source, threads)))

        def fill(target: Array) -> None:
            list(pool.map(lambda part: part.fill(1), split(target, threads)))

        print("| format | f32: GB/s | copy | share | bf16: GB/s | copy | share | decode: GB/s | fill | share |")
        print("|---" * 10 + "|")
        for info in formats:
            cells = [info.name]
            blocks = np.empty((len(rows), info.row_bytes(2048) or 0), np.uint8)
            for x in (rows, halves):
                if info.name not in LIGHT:
                    cells += ["", "", ""]
                    continue
                target = np.empty_like(x)

                encode = partial(gg.quantize, x, info.name, threads=threads, out=blocks)
                own, copied = in_turns([encode, partial(copy, x, target)], rounds)
                rate, limit = (x.nbytes + blocks.nbytes) / own / 1e9, 2 * x.nbytes / copied / 1e9
                cells += [f"{rate:.1f}", f"{limit:.1f}", f"{rate / limit:.0%}"]
            if info.name not in LIGHT:
                gg.quantize(rows, info.name, imatrix=np.ones(2048, np.float32), threads=threads, out=blocks)
            target = np.empty_like(rows)
            decode = partial(gg.dequantize, blocks, info.name, rows.shape, threads=threads, out=target)
            own, filled = in_turns([decode, partial(fill, target)], rounds)
            rate, limit = rows.nbytes / own / 1e9, rows.nbytes / filled / 1e9
            cells += [f"{rate:.1f}", f"{limit:.1f}", f"{rate / limit:.0%}"]
            print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help="all that are stored and have fewer than 16 bits")
    parser.add_argument("--library", help="path of libggml-base.so")
    parser.add_argument("--weights", type=float, default=16, help="millions of weights for each format")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kind", choices=["plain", "imatrix"], help="only without, or only with an importance matrix")
    parser.add_argument(
        "--any-bytes", action="store_true", help="go on if bytes differ, for libraries whose compiler fused operations"
    )
    parser.add_argument("--memory", action="store_true", help="compare with memory, not with ggml")
    parser.add_argument("--threads", type=int, default=2, help="threads against memory")
    options = parser.parse_args()
    formats = [info for info in STORAGE if not options.formats or info.name in options.formats]
    weights = int(options.weights * 1e6)
    if options.memory:
        print(f"{gg.isa()}, {options.threads} threads, {weights * 3 // 4:,} weights, best of {options.rounds} rounds\n")
        return memory(formats, weights, options.threads, options.rounds)
    library = load(options.library)
    inputs = matrices(weights)
    count = sum(x.size for x in inputs)
    print(f"{gg.isa()}, one thread, {count:,} weights, medians of {options.rounds} rounds\n")
    print("| format | | ggml, ns a weight | ggquant | GB/s | ratio | spread | same bytes |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    ratios = []
    for info in formats:
        for kind, excluded in (("plain", "required"), ("imatrix", "ignored")):
            if info.imatrix != excluded and options.kind in (None, kind):
                ratio, line = against_ggml(library, info, inputs, kind == "imatrix", options.rounds, options.any_bytes)
                print(line, flush=True)
                if info.name.endswith("_K") or info.name.startswith("IQ"):
                    ratios.append(ratio)
    if ratios:
        mean = statistics.geometric_mean(ratios)
        print(f"\ngeometric mean of {len(ratios)} encoders of k- and i-quants: {mean:.1f}")


if __name__ == "__main__":
    main()

"""Products of ggquant against those of ggml and numpy, in one process: a Markdown table of ratios.

    python benches/python/matmul_vs_llama_cpp.py [FORMAT ...] [--library FOLDER] [--rows 4096] [--batch 1 512 ...]

The libraries are those of an installed llama-cpp-python unless `--library` names the folder of another build; for a
fair comparison that should be one for this machine (GGML_NATIVE). ggml's side is its fastest path for the format:
plain (which includes its tiled kernels), or with the weights repacked beforehand, which is not counted. numpy's side
is float32 on decoded weights, at most 8192 rows of them. The sides take turns, and their results are compared; times
are CPU time of the process with one thread, wall time with more, and a side's time is its median. With more threads set
OMP_WAIT_POLICY=passive, if ggml was built with OpenMP: its threads spin otherwise while ours work.

For batches of up to 8 there are as many rows of weights as take 128 MB, so that they come from memory and not from a
cache. The rate at which the same run reads memory is that of the C library's `memchr` over a buffer of that size.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from ggml_product import Ggml, Product

import ggquant as gg

SOURCE_ROWS = 64
SMALL_BATCH = 8
FROM_MEMORY = 128 << 20
DECODED_ROWS = 8192


def weights(format: gg.FormatInfo, rows: int, columns: int) -> gg.QuantizedTensor:
    """Bell-shaped weights in blocks; a few encoded rows over and over, since speed does not depend on them."""
    source = (np.random.default_rng(0).standard_normal((min(SOURCE_ROWS, rows), columns)) * 0.02).astype(np.float32)
    importance = np.ones(columns, np.float32) if format.imatrix == "required" else None
    data = gg.quantize(source, format.name, imatrix=importance).data
    repeated = np.tile(data, (-(-rows // len(data)), 1))[:rows]
    return gg.QuantizedTensor(np.ascontiguousarray(repeated), format.name, (rows, columns))


class Clock:
    """Times calls: by CPU time of the process if one thread does all the work, by the clock on the wall otherwise."""

    def __init__(self, threads: int) -> None:
        self._now = time.process_time if threads == 1 else time.perf_counter

    def __call__(self, run: Callable[[], object]) -> float:
        start = self._now()
        run()
        return self._now() - start


def read_bandwidth(clock: Clock) -> float:
    """Bytes a second that one thread reads from memory: the best of a few rounds of `memchr` for what is not there."""
    memchr = ctypes.CDLL(None).memchr
    memchr.argtypes, memchr.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t], ctypes.c_void_p
    buffer = np.ones(FROM_MEMORY, np.uint8)
    return FROM_MEMORY / min(clock(lambda: memchr(buffer.ctypes.data, 0, buffer.nbytes)) for _ in range(5))


def order_bound(w: npt.NDArray[np.float32], x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """By how much two ways of adding up the same products of integers can differ: see tests/python/test_matmul.py, with
    its constants for the worst format (minima, a scale for each 16 columns) for all."""
    parts, terms = 3, x.shape[1] / 16 * 2 + 8
    sums = np.abs(x.reshape(len(x), -1, 32)).sum(2, dtype=np.float64)
    rounding = np.abs(x.reshape(len(x), -1, 256)).max(2) * 32 / 254
    largest = np.abs(w.reshape(len(w), -1, 32)).max(2).astype(np.float64)
    bound: npt.NDArray[np.float64] = (
        2 * (terms + 4) * 2.0**-24 * parts * ((sums + np.repeat(rounding, 8, axis=1)) @ largest.T)
    )
    return bound


def check(
    w: gg.QuantizedTensor,
    x: npt.NDArray[np.float32],
    name: str,
    ours: npt.NDArray[np.float32],
    theirs: npt.NDArray[np.float32],
) -> None:
    rows = min(SOURCE_ROWS, w.shape[0])
    decoded = w[:rows].dequantize()
    if w.format in ("F32", "F16", "BF16"):  # ggml rounds activations to the type of the weights, bfloat16 at worst
        bound = 2.0**-7 * (np.abs(x).astype(np.float64) @ np.abs(decoded).T.astype(np.float64))
    else:
        bound = order_bound(decoded, x)
    repeats = -(-w.shape[0] // rows)
    if not (np.abs(ours - theirs) <= np.tile(bound, repeats)[:, : w.shape[0]]).all():
        raise SystemExit(f"{w.format}: the results differ from ggml's ({name})")


def measure(
    ggml: Ggml, format: gg.FormatInfo, w: gg.QuantizedTensor, x: npt.NDArray[np.float32], options: argparse.Namespace
) -> str:
    clock, threads, rounds = Clock(options.threads), options.threads, options.rounds
    out = np.empty((len(x), w.shape[0]), np.float32)
    theirs: dict[str, Product] = {}
    for layout in ggml.layouts:
        try:
            theirs[layout] = ggml.product(format.ggml_type, w.data, x, layout, threads)
        except LookupError:
            continue
    runs: dict[str, Callable[[], object]] = {"ours": lambda: w.matmul(x, out=out, threads=threads)}
    runs |= {layout: product.run for layout, product in theirs.items()}
    share = 1.0
    if options.numpy:
        decoded = w[: min(DECODED_ROWS, w.shape[0])].dequantize()
        share = len(decoded) / w.shape[0]
        runs["numpy"] = lambda: np.matmul(x, decoded.T)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round in range(-1, rounds):
        for name, run in runs.items():
            taken = clock(run)
            if round >= 0:  # the one before the first warms up, and is what is compared
                times[name].append(taken)
            elif name in theirs:
                check(w, x, name, out, theirs[name].result())
    for product in theirs.values():
        product.close()
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours = medians["ours"]
    best = min(theirs, key=lambda layout: medians[layout])
    unit, name = (2 * len(x) * w.size, "GOP/s") if len(x) > SMALL_BATCH else (w.nbytes, "GB/s")
    ratios = [min(times[layout][i] for layout in theirs) / times["ours"][i] for i in range(rounds)]
    cells = [
        format.name,
        str(len(x)),
        f"{unit / medians[best] / 1e9:.1f} ({best.removeprefix('CPU_').lower()})",
        f"{unit / ours / 1e9:.1f} {name}",
        f"{medians[best] / ours:.2f}",
        f"{min(ratios):.2f} - {max(ratios):.2f}",
    ]
    if options.numpy:
        cells.append(f"{medians['numpy'] / share / ours:.2f}")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help="by default all but the plain floats")
    parser.add_argument("--library", help="folder of libggml-base.so and libggml-cpu.so")
    parser.add_argument("--rows", type=int, default=4096, help="for batches of more than 8")
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--numpy", action="store_true", help="compare with numpy's float32 product as well")
    options = parser.parse_args()
    if os.environ.get("OPENBLAS_NUM_THREADS") != str(options.threads):
        # numpy's library reads it when it is loaded, which has happened.
        os.environ["OPENBLAS_NUM_THREADS"] = str(options.threads)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    ggml = Ggml(options.library)
    print(f"instruction set: {gg.isa()}, {options.threads} threads, {options.columns} columns, {options.rounds} rounds")
    print(f"reading memory: {read_bandwidth(Clock(1)) / 1e9:.1f} GB/s on one thread\n")
    columns = ["format", "batch", "ggml", "ggquant", "ratio", "spread", *(["numpy f32"] if options.numpy else [])]
    print("| " + " | ".join(columns) + " |\n|---|" + "---:|" * (len(columns) - 1))
    for format in gg.formats():
        wanted = format.name in options.formats if options.formats else format.storage and format.block_len > 1
        if not wanted:
            continue
        for n in options.batch:
            row_bytes = options.columns // format.block_len * format.block_bytes
            rows = -(-FROM_MEMORY // row_bytes) if n <= SMALL_BATCH else options.rows
            w = weights(format, rows, options.columns)
            x = np.random.default_rng(n).standard_normal((n, options.columns)).astype(np.float32)
            print(measure(ggml, format, w, x, options), flush=True)


if __name__ == "__main__":
    main()

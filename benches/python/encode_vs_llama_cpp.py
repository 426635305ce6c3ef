"""Encoders of ggquant against those of ggml, in one process and on one thread: a Markdown table of ratios.

    python benches/python/encode_vs_llama_cpp.py [--library libggml-base.so] [--weights 16] [FORMAT ...]

The library is that of an installed llama-cpp-python unless `--library` names another build. Both sides encode the same
rows, their bytes are compared first, and then they take turns; times are CPU time of the process.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

import ggquant as gg

ROW = 4096
ROUNDS = 5
ALL = [info.name for info in gg.formats() if info.storage and info.bits_per_weight < 16]


def load(path: str | None) -> ctypes.CDLL:
    if path is None:
        import llama_cpp

        path = str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so")
    library = ctypes.CDLL(path)
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library


def heavy_tailed(weights: int) -> npt.NDArray[np.float32]:
    """Rows as long as those of a language model, with Student's t of 5 degrees of freedom."""
    rng = np.random.default_rng(0)
    return (rng.standard_t(5, (max(weights // ROW, 1), ROW)) * 0.02).astype(np.float32)


def measure(library: ctypes.CDLL, format: gg.FormatInfo, rows: npt.NDArray[np.float32], weighted: bool) -> str:
    importance = np.random.default_rng(1).gamma(1, 1, ROW).astype(np.float32) if weighted else None
    theirs = np.zeros((len(rows), format.row_bytes(ROW) or 0), np.uint8)
    pointer = importance.ctypes.data if importance is not None else None
    ratios, ours_ns, theirs_ns = [], [], []
    # Tables are made when they are first needed, on either side.
    library.ggml_quantize_chunk(format.ggml_type, rows.ctypes.data, theirs.ctypes.data, 0, 1, ROW, pointer)
    gg.quantize(rows[:1], format.name, imatrix=importance, threads=1)
    for _ in range(ROUNDS):
        start = time.process_time()
        library.ggml_quantize_chunk(format.ggml_type, rows.ctypes.data, theirs.ctypes.data, 0, len(rows), ROW, pointer)
        middle = time.process_time()
        ours = gg.quantize(rows, format.name, imatrix=importance, threads=1)
        end = time.process_time()
        if not np.array_equal(ours.data, theirs):
            raise SystemExit(f"{format.name}: the bytes differ")
        theirs_ns.append((middle - start) / rows.size * 1e9)
        ours_ns.append((end - middle) / rows.size * 1e9)
        ratios.append((middle - start) / (end - middle))
    kind = "imatrix" if weighted else "plain"
    median = statistics.median
    return (
        f"| {format.name} | {kind} | {median(theirs_ns):.1f} | {median(ours_ns):.2f} | "
        f"{median(ratios):.1f} | {min(ratios):.1f} - {max(ratios):.1f} |"
    )


def memory(rows: npt.NDArray[np.float32]) -> None:
    """Copying and filling on one thread, as fast as this machine does them at the moment."""
    target = np.empty_like(rows)
    copy, fill = [], []
    for _ in range(ROUNDS):
        start = time.process_time()
        np.copyto(target, rows)
        middle = time.process_time()
        target.fill(1)
        copy.append(2 * rows.nbytes / (middle - start))
        fill.append(rows.nbytes / (time.process_time() - middle))
    print(f"memory: copies {max(copy) / 1e9:.1f} GB/s, read and written; fills {max(fill) / 1e9:.1f} GB/s\n")


def measure_decoding(format: gg.FormatInfo, rows: npt.NDArray[np.float32]) -> str:
    blocks = gg.quantize(rows, format.name, imatrix=np.ones(ROW, np.float32), threads=1)
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        gg.dequantize(blocks.data, format.name, rows.shape, threads=1)
        times.append(time.process_time() - start)
    return f"| {format.name} | {min(times) / rows.size * 1e9:.2f} | {rows.nbytes / min(times) / 1e9:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", default=ALL, metavar="FORMAT")
    parser.add_argument("--library", help="path of libggml-base.so")
    parser.add_argument("--weights", type=float, default=16, help="millions of weights for each format")
    options = parser.parse_args()
    library = load(options.library)
    rows = heavy_tailed(int(options.weights * 1e6))
    memory(rows)
    print(f"instruction set: {gg.isa()}, one thread, {rows.size:,} weights in rows of {ROW}, {ROUNDS} rounds\n")
    print("| format | | ggml, ns a weight | ggquant | ratio | spread |\n|---|---|---:|---:|---:|---:|")
    for format in gg.formats():
        if format.name in options.formats:
            if format.imatrix != "required":
                print(measure(library, format, rows, weighted=False), flush=True)
            if format.imatrix != "ignored":
                print(measure(library, format, rows, weighted=True), flush=True)
    print("\n| format | decoding, ns a weight | GB/s written |\n|---|---:|---:|")
    for format in gg.formats():
        if format.name in options.formats:
            print(measure_decoding(format, rows), flush=True)


if __name__ == "__main__":
    main()

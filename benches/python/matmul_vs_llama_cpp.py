"""Products of ggquant against those of ggml, in one process and on one thread: a Markdown table of ratios.

    python benches/python/matmul_vs_llama_cpp.py [FORMAT ...] [--library FOLDER] [--rows 4096] [--batch 512 ...]

The libraries are those of an installed llama-cpp-python unless `--library` names the folder of another build; for a
fair comparison that should be one for this machine (GGML_NATIVE). ggml's side is its fastest path for the format:
plain, or with the weights repacked beforehand, which is not counted. The sides take turns, and their results are
compared; times are CPU time of the process, and a side's time is its median.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from ggml_product import Ggml, Product

import ggquant as gg

SOURCE_ROWS = 64


def weights(format: gg.FormatInfo, rows: int, columns: int) -> gg.QuantizedTensor:
    """Bell-shaped weights in blocks; a few encoded rows over and over, since speed does not depend on them."""
    source = (np.random.default_rng(0).standard_normal((min(SOURCE_ROWS, rows), columns)) * 0.02).astype(np.float32)
    importance = np.ones(columns, np.float32) if format.imatrix == "required" else None
    data = gg.quantize(source, format.name, imatrix=importance).data
    repeated = np.tile(data, (-(-rows // len(data)), 1))[:rows]
    return gg.QuantizedTensor(np.ascontiguousarray(repeated), format.name, (rows, columns))


def cpu_time(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(ggml: Ggml, format: gg.FormatInfo, w: gg.QuantizedTensor, x: npt.NDArray[np.float32], rounds: int) -> str:
    theirs: dict[str, Product] = {}
    for layout in ggml.layouts:
        try:
            theirs[layout] = ggml.product(format.ggml_type, w.data, x, layout)
        except LookupError:
            continue
    out = np.empty((len(x), w.shape[0]), np.float32)
    times: dict[str, list[float]] = {name: [] for name in ["ours", *theirs]}
    for _ in range(rounds):
        times["ours"].append(cpu_time(lambda: w.matmul(x, out=out, threads=1)))
        for layout, product in theirs.items():
            times[layout].append(cpu_time(product.run))
    for layout, product in theirs.items():
        if not np.allclose(product.result(), out, rtol=1e-3, atol=1e-3 * np.abs(out).max()):
            raise SystemExit(f"{format.name}: the results differ ({layout})")
        product.close()
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours = medians.pop("ours")
    best = min(medians, key=lambda layout: medians[layout])
    operations = 2 * len(x) * w.size
    unit = (operations, "GOP/s") if len(x) > 8 else (w.nbytes, "GB/s")
    ratios = [min(times[layout][i] for layout in theirs) / times["ours"][i] for i in range(rounds)]
    return (
        f"| {format.name} | {len(x)} | {unit[0] / medians[best] / 1e9:.1f} ({best.removeprefix('CPU_').lower()}) | "
        f"{unit[0] / ours / 1e9:.1f} {unit[1]} | {medians[best] / ours:.2f} | {min(ratios):.2f} - {max(ratios):.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help="by default all but the plain floats")
    parser.add_argument("--library", help="folder of libggml-base.so and libggml-cpu.so")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--batch", type=int, nargs="+", default=[512])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ggml = Ggml(options.library)
    shape = f"[{options.rows}, {options.columns}]"
    print(f"instruction set: {gg.isa()}, one thread, weights {shape}, {options.rounds} rounds\n")
    print("| format | batch | ggml | ggquant | ratio | spread |\n|---|---:|---:|---:|---:|---:|")
    for format in gg.formats():
        wanted = format.name in options.formats if options.formats else format.storage and format.block_len > 1
        if wanted:
            w = weights(format, options.rows, options.columns)
            for n in options.batch:
                x = np.random.default_rng(n).standard_normal((n, options.columns)).astype(np.float32)
                print(measure(ggml, format, w, x, options.rounds), flush=True)


if __name__ == "__main__":
    main()

"""`ggquant imatrix` against `llama-imatrix`: whole processes in turns, and a table of tokens a second.

    python benches/python/imatrix_vs_llama_cpp.py LLAMA_IMATRIX MODEL.gguf TEXT [--chunks 8] [--rounds 3]

Both sides read the same file and write the same statistics; times are wall and CPU time of the process, least of the
rounds.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ggquant import isa
from ggquant.calibration import read_statistics


def timed(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return end - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "theirs.gguf", Path(folder) / "ours.gguf"]
        shared = ["--chunks", str(args.chunks), "-t", str(args.threads)]
        theirs = [args.program, "-m", args.model, "-f", args.text, "-o", str(files[0]), *shared]
        ours = [sys.executable, "-m", "ggquant", "imatrix", args.model, args.text, "-o", str(files[1]), *shared]
        ours += ["--overwrite", "--quiet"]
        times: dict[str, list[tuple[float, float]]] = {"llama-imatrix": [], "ggquant": []}
        for _ in range(args.rounds):
            times["llama-imatrix"].append(timed(theirs))
            times["ggquant"].append(timed(ours))
        found = [read_statistics(file) for file in files]
        tokens = int(next(iter(found[1].entries.values())).counts.max())
        worst = max(
            float(
                np.linalg.norm(entry.sums - found[0].entries[name].sums) / np.linalg.norm(found[0].entries[name].sums)
            )
            for name, entry in found[1].entries.items()
        )
        print("| | wall s | CPU s | tokens / CPU s |\n|---|---:|---:|---:|")
        for name, pairs in times.items():
            wall, cpu = min(p[0] for p in pairs), min(p[1] for p in pairs)
            print(f"| {name} | {wall:.2f} | {cpu:.2f} | {tokens / cpu:.0f} |")
        wall, cpu = (min(p[i] for p in times["llama-imatrix"]) / min(p[i] for p in times["ggquant"]) for i in range(2))
        print(f"\nratio of wall times {wall:.2f}, of CPU times {cpu:.2f}")
        print(f"{tokens} tokens; largest difference of a tensor {worst:.1e}; instruction set {isa()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?")
    parser.add_argument("model", nargs="?")
    parser.add_argument("text", nargs="?")
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    compare(parser.parse_args())

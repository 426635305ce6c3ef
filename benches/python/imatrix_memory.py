"""Memory that calibrating a large model takes: a checkpoint of zeros, as a sparse file, through `ggquant imatrix`.

    python benches/python/imatrix_memory.py TOKENIZER_FOLDER TEXT [--layers 20] [--chunks 2] [--memory 2G]

A layer has 268 million bf16 weights, 537 MB. The tokenizer is taken from another checkpoint.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from synthetic import Llama, write_llama

SIZE = Llama(hidden=4096, inner=16384, heads=32, kv_heads=32, head_dim=128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("text")
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--chunks", type=int, default=2)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--memory", default="2G")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        weights = write_llama(folder, args.tokenizer, SIZE, args.layers)
        command = [sys.executable, "-m", "ggquant", "imatrix", str(folder), args.text, "-o", f"{scratch}/i.gguf"]
        command += ["--chunks", str(args.chunks), "-c", str(args.context), "--memory", args.memory, "--pre", "gpt-2"]
        start = time.perf_counter()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"{weights / 1e9:.1f} GB of weights, {args.layers} layers: peak of {peak / 1e9:.2f} GB, {seconds:.0f} s")


if __name__ == "__main__":
    main()

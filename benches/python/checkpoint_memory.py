"""Anonymous memory that exporting and converting a checkpoint of 1 GB takes, sampled every 20 ms.

    python benches/python/checkpoint_memory.py TOKENIZER_FOLDER [--layers 4]

A layer has 109 million weights. The bf16 checkpoint is made of random numbers; it is exported by rounding to each
layout, and each export is converted to GGUF with the codes it has.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np
from synthetic import Llama, write_llama

SIZE = Llama(hidden=2816, inner=11008, heads=22, kv_heads=22, head_dim=128)
FORMATS = {"gptq": "Q4_0", "awq": "Q4_1", "compressed-tensors": "Q4_0"}


def weights(count: int) -> bytes:
    values = np.random.default_rng(count).standard_normal(count, np.float32) * 0.02
    return values.astype(ml_dtypes.bfloat16).tobytes()


def peak(words: list[str]) -> tuple[float, float]:
    """Runs the command; its largest anonymous memory in MB, and the seconds it took."""
    started, most = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-m", "ggquant", *words])
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        found = [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")]
        most = max(most, *found, 0)
        time.sleep(0.02)
    if process.wait():
        sys.exit(process.returncode)
    return most / 1024, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--pre", default="gpt-2")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source"
        source.mkdir()
        total = write_llama(source, given.tokenizer, SIZE, given.layers, weights)
        print(f"{total / 1e9:.2f} GB in bf16")
        for layout, format in FORMATS.items():
            packed = folder / layout
            memory, seconds = peak(["export", "--quiet", str(source), str(packed), "--to", layout])
            print(f"export to {layout:20}{memory:6.0f} MB {seconds:6.1f} s")
            words = ["quantize", "--quiet", str(packed), str(folder / f"{layout}.gguf"), format, "--pre", given.pre]
            memory, seconds = peak(words)
            print(f"{layout:20} to {format:7}{memory:6.0f} MB {seconds:6.1f} s")


if __name__ == "__main__":
    main()

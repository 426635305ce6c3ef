"""A whole conversion: a bf16 checkpoint to a quantized GGUF, against llama.cpp's converter followed by llama-quantize.

    python benches/python/convert_vs_llama_cpp.py [--gigabytes 1] [--threads 2] [--rounds 3] [VARIANT ...]
        [--converter PYTHON LLAMA_CPP_TREE --quantizer LLAMA_QUANTIZE]

Writes a synthetic Llama checkpoint with heavy-tailed weights and the bundled model's tokenizer, converts it to each
variant (Q4_K_M, Q6_K, IQ4_XS, IQ3_S) and prints a Markdown table: wall-clock and CPU seconds, cores that were busy on
average, and the peak of anonymous memory (RssAnon, polled every 20 ms). With the two programs of llama.cpp named, both
ways take turns, the files are compared tensor by tensor, and the table has the ratio of wall-clock times; theirs is the
converter to BF16 and then llama-quantize. Every file is in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from synthetic import Llama, write_llama

import ggquant as gg

MODEL = Path(__file__).parents[2] / "tests" / "data" / "tinylm"
VARIANTS = ["Q4_K_M", "Q6_K", "IQ4_XS", "IQ3_S"]
SIZE = Llama(hidden=2048, inner=5632, heads=32, kv_heads=8, head_dim=64)
# What the converter says for a tokenizer that it has no name for; the bundled one is named by hand on both sides.
PRE = "gpt-2"


@dataclass
class Cost:
    seconds: float
    cpu: float
    anonymous: int


def write_checkpoint(folder: Path, gigabytes: float) -> int:
    """As many layers as fit. Returns the bytes of the weights."""
    vocab = json.loads((MODEL / "config.json").read_text())["vocab_size"]
    layers = max(1, round((gigabytes * 1e9 - 4 * vocab * SIZE.hidden) / SIZE.layer_bytes()))
    rng = np.random.default_rng(0)

    def weights(count: int) -> bytes:
        values = (rng.standard_t(5, count) * 0.02).astype(np.float32)
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()

    return write_llama(folder, MODEL, SIZE, layers, weights)


def run(command: list[str], environment: dict[str, str] | None = None) -> Cost:
    """Runs a program to its end."""
    before, start = os.times(), time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        anonymous = 0
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            for line in status.splitlines():
                if line.startswith("RssAnon:"):
                    anonymous = max(anonymous, 1024 * int(line.split()[1]))
            time.sleep(0.02)
        seconds, after = time.perf_counter() - start, os.times()
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)}:\n{output.read().decode(errors='replace')}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(seconds, cpu, anonymous)


def same_tensors(ours: Path, theirs: Path) -> None:
    """Stops unless both files have the same tensors with the same bytes."""
    a, b = gg.gguf.open(ours), gg.gguf.open(theirs)
    names = list(a.tensors)
    if sorted(names) != sorted(b.tensors):
        raise SystemExit(f"{ours.name}: other tensors than {theirs.name}")
    for name in names:
        if not np.array_equal(a.tensors[name].read(), b.tensors[name].read()):
            raise SystemExit(f"{ours.name}: {name} differs from {theirs.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", default=VARIANTS, metavar="VARIANT")
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--converter", nargs=2, metavar=("PYTHON", "TREE"), help="Python with PyTorch, tree")
    parser.add_argument("--quantizer", help="llama-quantize")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        weights = write_checkpoint(folder, args.gigabytes)
        print(f"{gg.isa()}, {args.threads} threads, {weights / 1e9:.2f} GB in bf16, medians of {args.rounds} rounds\n")
        print("| variant | ours, s | CPU, s | cores busy | peak RssAnon, MB | theirs, s | converter | ratio |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        compare = bool(args.converter and args.quantizer)
        bf16 = Path(scratch) / "theirs-BF16.gguf"
        for variant in args.variants:
            own, their, converting = [], [], []
            ours, theirs = (Path(scratch) / f"{side}-{variant}.gguf" for side in ("ours", "theirs"))
            for _ in range(args.rounds):
                command = [sys.executable, "-m", "ggquant", "quantize", str(folder), str(ours), variant, "--overwrite"]
                own.append(run([*command, "--threads", str(args.threads), "--pre", PRE]))
                if compare:
                    converting.append(run(converter(args.converter, folder, bf16)).seconds)
                    command = [args.quantizer, str(bf16), str(theirs), variant, str(args.threads)]
                    their.append(run(command).seconds + converting[-1])
            middle = sorted(own, key=lambda cost: cost.seconds)[len(own) // 2]
            cells = [variant, f"{middle.seconds:.2f}", f"{middle.cpu:.2f}", f"{middle.cpu / middle.seconds:.2f}"]
            cells.append(f"{max(cost.anonymous for cost in own) / 1e6:.0f}")
            if compare:
                same_tensors(ours, theirs)
                ratio = statistics.median(t / o.seconds for t, o in zip(their, own, strict=True))
                cells += [f"{statistics.median(their):.1f}", f"{statistics.median(converting):.1f}", f"{ratio:.1f}"]
            else:
                cells += ["", "", ""]
            print(f"| {' | '.join(cells)} |", flush=True)
            ours.unlink()
            theirs.unlink(missing_ok=True)


def converter(where: list[str], folder: Path, out: Path) -> list[str]:
    """The command line of llama.cpp's converter, made to accept a tokenizer that it has no name for."""
    python, tree = where
    code = (
        "import sys, logging; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/gguf-py']; import convert_hf_to_gguf as c\n"
        "from conversion.base import TextModel\n"
        f"TextModel.get_vocab_base_pre = lambda self, tokenizer: {PRE!r}\n"
        "sys.argv[:] = ['convert_hf_to_gguf.py', *sys.argv[2:]]; c.main()"
    )
    return [python, "-c", code, tree, str(folder), "--outfile", str(out), "--outtype", "bf16"]


if __name__ == "__main__":
    main()

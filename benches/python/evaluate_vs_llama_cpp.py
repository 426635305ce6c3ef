"""`ggquant evaluate` against `llama-perplexity`: whole processes in turns, their numbers compared first.

    python benches/python/evaluate_vs_llama_cpp.py LLAMA_PERPLEXITY MODEL.gguf TEXT [--base BASE.kld] [--chunks 16]

Both sides read the same files. With `--base`, predictions of the original as either of them saves them, the run is that
of `--kl-divergence`. Times are wall and CPU time of the process, least of the rounds. With one thread the CPU times are
comparable on a busy machine, too; with more, threads of llama.cpp that wait for each other count as working.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time


def timed(command: list[str]) -> tuple[float, float, str]:
    """Wall and CPU seconds of a command, and what it printed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True, errors="replace")
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return end - start, cpu, done.stdout if command[0] == sys.executable else done.stdout + done.stderr


def numbers(log: str) -> tuple[float, float | None] | None:
    """Perplexity and mean divergence that llama-perplexity prints. It may end before its last lines are out."""
    ppl = re.search(r"Mean PPL\(Q\)\s*:\s*([\d.]+)|PPL = ([\d.]+)", log)
    kld = re.search(r"Mean\s+KLD:\s*([\d.]+)", log)
    if ppl is None:
        return None
    return float(ppl[1] or ppl[2]), float(kld[1]) if kld else None


def compare(args: argparse.Namespace) -> None:
    shared = ["--chunks", str(args.chunks), "-t", str(args.threads), "-c", "512"]
    theirs = [args.program, "-m", args.model, "-f", args.text, *shared]
    ours = [
        sys.executable,
        "-m",
        "ggquant",
        "evaluate",
        args.model,
        *shared,
        "--json",
        "--activations",
        args.activations,
    ]
    if args.base:
        theirs += ["--kl-divergence", "--kl-divergence-base", args.base]
        ours += ["--logits", args.base]
    else:
        ours.append(args.text)
    runs = []
    for _ in range(args.rounds):
        runs.append((timed(theirs), timed(ours)))
    found = next((it for it in (numbers(theirs[2]) for theirs, _ in runs) if it is not None), None)
    if found is None:
        raise SystemExit(f"no perplexity in:\n{runs[0][0][2]}")
    ppl, kld = found
    made = json.loads(runs[0][1][2])
    print(f"perplexity {made['ppl']:.4f} and theirs {ppl}; divergence {made['kld_mean']} and theirs {kld}")
    if abs(made["ppl"] / ppl - 1) > 1e-3:
        raise SystemExit("these are different computations")
    print("| | wall s | CPU s | tokens / CPU s |\n|---|---:|---:|---:|")
    best = []
    for name, side in (("llama-perplexity", 0), ("ggquant", 1)):
        wall, cpu = (min(run[side][which] for run in runs) for which in (0, 1))
        best.append((wall, cpu))
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {args.chunks * 512 / cpu:.0f} |")
    print(f"\nratio of wall times {best[0][0] / best[1][0]:.2f}, of CPU times {best[0][1] / best[1][1]:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--base")
    parser.add_argument("--activations", default="int8")
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    compare(parser.parse_args())

"""Divergence from the original of every variant of a model, in both arithmetics, beside what llama-perplexity says.

    python benches/python/divergence.py MODEL TEXT [--imatrix FILE] [--chunks N] [--only Q4_K_M,Q8_0] [--kinds int8]

MODEL is a checkpoint; its variants are made here. The columns of llama-perplexity are for the bundled model on
`heldout-books.txt` as a whole, with files of llama-quantize, whose bytes ours have, and an importance matrix of
llama-imatrix with its defaults over `calibration.txt`; for anything else they mean nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import ggquant as gg

#: Mean divergence that `llama-perplexity --kl-divergence -c 512` gives: without importances, and with.
THEIRS: dict[str, tuple[float | None, float | None]] = {
    "Q2_K": (None, 0.1545),
    "Q3_K_M": (0.0383, 0.0362),
    "Q4_K_M": (0.01223, 0.01152),
    "Q5_K_M": (0.00395, 0.00374),
    "Q6_K": (0.00177, 0.00172),
    "Q8_0": (0.00031, None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--imatrix", type=Path)
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--only", default=",".join(THEIRS))
    parser.add_argument("--kinds", default="int8,float32")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    sizes = {"chunks": args.chunks, "threads": args.threads}
    print("| variant | imatrix | arithmetic | PPL | KLD | llama-perplexity | ratio |")
    print("|---|---|---|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for kind in args.kinds.split(","):
            base = Path(scratch) / f"{kind}.kld"
            made = gg.evaluate(args.model, args.text, save_logits=base, activations=kind, **sizes)
            print(f"| original | | {kind} | {made.ppl:.4f} | | | |", flush=True)
            for name in args.only.split(","):
                for imatrix, theirs in zip((None, args.imatrix), THEIRS[name], strict=True):
                    if theirs is None or (imatrix is None and theirs is not THEIRS[name][0]):
                        continue
                    path = Path(scratch) / f"{name}-{imatrix is not None}.gguf"
                    if not path.exists():
                        gg.convert(args.model, path, name, imatrix=imatrix)
                    made = gg.evaluate(path, args.text, logits=base, activations=kind, **sizes)
                    cells = [name, "yes" if imatrix else "no", kind, f"{made.ppl:.4f}", f"{made.kld_mean:.6f}"]
                    print(f"| {' | '.join(cells)} | {theirs} | {(made.kld_mean or 0.0) / theirs:.4f} |", flush=True)


if __name__ == "__main__":
    main()

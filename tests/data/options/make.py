"""Makes `digests.json`: SHA-256 of what llama-quantize writes for tinylm with options, singly and together.

Usage: make.py LLAMA_BIN_FOLDER TINYLM.bf16.gguf. The second is `tests/data/tinylm` converted to BF16, which is
the input of the tests, too.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

CASES = [
    ["--keep-split", "Q4_K_M"],
    ["--keep-split", "Q2_K"],
    ["--keep-split", "--pure", "Q5_0"],
    ["--keep-split", "COPY"],
    ["--prune-layers", "1", "Q4_K_M"],
    ["--override-kv", "a.b=int:-7", "--override-kv", "general.name=str:other", "Q8_0"],
    ["--output-tensor-type", "q4_0", "--token-embedding-type", "f16", "Q4_K_S"],
    ["--tensor-type", "attn_(q|k)=q6_k", "--tensor-type", "ffn_down=iq4_nl", "Q4_K_M"],
    ["--leave-output-tensor", "--tensor-type", "q=q8_0", "Q3_K_L"],
    ["--pure", "--max-buffer-size", "3", "Q6_K"],
    ["15", "3"],
    ["--keep-split", "--tensor-type", "v=q5_0", "--override-kv", "a.c=float:0.1", "IQ4_XS"],
]
FIRST = "w-00001-of-{:05}.gguf"


def main() -> None:
    tools, model = Path(sys.argv[1]), sys.argv[2]
    made = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        split = [tools / "llama-gguf-split", "--split", "--split-max-tensors", "7", model, folder / "w"]
        subprocess.run(split, check=True, capture_output=True)
        shards = len(list(folder.glob("w-*.gguf")))
        for number, case in enumerate(CASES):
            out = folder / str(number)
            out.mkdir()
            # The variant comes last, with the number of threads after it where there is one.
            at = len(case) - (2 if case[-1] == "3" else 1)
            source = folder / FIRST.format(shards) if "--keep-split" in case else model
            words = [tools / "llama-quantize", *case[:at], source, out / "out.gguf", *case[at:]]
            subprocess.run(words, check=True, capture_output=True)
            digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir())}
            made.append({"before": case[:at], "after": case[at:], "files": digests})
    content = {"shards": shards, "cases": made}
    Path(__file__).with_name("digests.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")


main()

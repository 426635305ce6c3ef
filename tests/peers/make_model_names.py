"""What llama.cpp's gguf-py reads from model identifiers, for tests/data/model_names.json.

python tests/peers/make_model_names.py LLAMA_CPP_TREE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

IDENTIFIERS = (
    "Mixtral-8x7B-Instruct-v0.1",
    "mistralai/Mistral-7B-Instruct-v0.3",
    "meta-llama/Llama-2-7b-hf",
    "Llama-3.2-1B-Instruct",
    "Phi-3-mini-4k-instruct",
    "Phi-3-medium-128k-instruct",
    "Qwen2.5-0.5B",
    "Qwen3-30B-A3B",
    "Qwen3-235B-A22B-Instruct-2507",
    "SmolLM2-135M",
    "bloom-7b1",
    "bloom-7b1-petals",
    "gemma-2-2b-it",
    "gemma-3-1b-it",
    "gpt2",
    "gpt2-xl",
    "starcoder2-3b",
    "OLMo-2-0425-1B",
    "granite-3.3-2b-instruct",
    "gpt-oss-20b",
    "all-MiniLM-L6-v2",
    "delta-v1.5-1B",
    "Model-iter3-7B-chat",
    "model-q4_0-7B",
    "model-fp16",
    "x-bf16-70B",
    "8x22B",
    "./local-7B",
    "../Model-7B",
    "Org/Name With Space",
    "Org/",
    "a--b---7B",
    "stablelm-2-1_6b-chat",
    "Falcon-40b-Vision-LoRA",
    "c4ai-command-r-plus-08-2024",
    "Big-Weird-Model-1.5T-v3-small",
    "tiny-123k-model",
    "deepseek-coder-33b-base",
    "v2-model",
    "7B",
    "model-small",
    "model-1.5B-large",
)
PARAMETERS = (0, 1_100_000_000, 7_000_000_000, 46_700_000_000)
COUNTS = (0, 1, 999, 1000, 1001, 99_949, 123_456, 999_999, 1_000_000, 1_234_567, 7_241_732_096, 999_999_999, 10**12 + 1)


def main() -> None:
    sys.path.insert(0, str(Path(sys.argv[1]) / "gguf-py"))
    from gguf.metadata import Metadata
    from gguf.utility import size_label

    names = [
        [name, count, Metadata.get_model_id_components(name, count), Metadata.id_to_title(name)]
        for name in IDENTIFIERS
        for count in PARAMETERS
    ]
    sizes = [[count, size_label(count, count, 0, 0)] for count in COUNTS]
    lines = ",\n".join(json.dumps(row) for row in names)
    target = Path(__file__).resolve().parents[1] / "data" / "model_names.json"
    target.write_text(f'{{"names": [\n{lines}\n],\n"sizes": {json.dumps(sizes)}}}\n')


if __name__ == "__main__":
    main()

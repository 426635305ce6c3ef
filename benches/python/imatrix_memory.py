"""Memory that calibrating a large model takes: a checkpoint of zeros, as a sparse file, through `ggquant imatrix`.

    python benches/python/imatrix_memory.py TOKENIZER_FOLDER TEXT [--layers 20] [--chunks 2] [--memory 2G]

A layer has 268 million bf16 weights, 537 MB. The tokenizer is taken from another checkpoint.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path

HIDDEN, INNER = 4096, 16384


def write(folder: Path, tokenizer: Path, layers: int) -> int:
    """Writes the checkpoint; returns the bytes that its weights seem to have."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder)
    config = json.loads((tokenizer / "config.json").read_text())
    vocab = config["vocab_size"]
    config |= {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers, "head_dim": 128}
    config |= {"num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (vocab, HIDDEN), "lm_head": (vocab, HIDDEN), "model.norm": (HIDDEN,)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{at}.mlp.{name}_proj": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj"] = (HIDDEN, INNER)
        shapes |= {f"{at}.{name}": (HIDDEN,) for name in ("input_layernorm", "post_attention_layernorm")}
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * prod(shape)
        header[f"{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return offset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("text")
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--chunks", type=int, default=2)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--memory", default="2G")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        weights = write(folder, args.tokenizer, args.layers)
        command = [sys.executable, "-m", "ggquant", "imatrix", str(folder), args.text, "-o", f"{scratch}/i.gguf"]
        command += ["--chunks", str(args.chunks), "-c", str(args.context), "--memory", args.memory, "--pre", "gpt-2"]
        start = time.perf_counter()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"{weights / 1e9:.1f} GB of weights, {args.layers} layers: peak of {peak / 1e9:.2f} GB, {seconds:.0f} s")


if __name__ == "__main__":
    main()

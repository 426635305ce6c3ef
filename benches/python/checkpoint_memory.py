"""Anonymous memory that exporting and converting a checkpoint of 1 GB takes, sampled every 20 ms.

    python benches/python/checkpoint_memory.py TOKENIZER_FOLDER [--layers 4]

A layer has 109 million weights. The bf16 checkpoint is made of random numbers; it is exported by rounding to each
layout, and each export is converted to GGUF with the codes it has.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np

HIDDEN, INNER = 2816, 11008
FORMATS = {"gptq": "Q4_0", "awq": "Q4_1", "compressed-tensors": "Q4_0"}


def write(folder: Path, tokenizer: Path, layers: int) -> int:
    """Writes the checkpoint; returns the bytes of its weights."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder)
    config = json.loads((tokenizer / "config.json").read_text())
    vocab = config["vocab_size"]
    config |= {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": layers, "head_dim": 128}
    config |= {"num_attention_heads": 22, "num_key_value_heads": 22, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (vocab, HIDDEN), "lm_head": (vocab, HIDDEN)}
    shapes["model.norm"] = (HIDDEN,)
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
    random = np.random.default_rng(1)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            values = random.standard_normal(prod(shape), np.float32) * 0.02
            file.write(values.astype(ml_dtypes.bfloat16).tobytes())
    return offset


def peak(words: list[str]) -> tuple[float, float]:
    """Runs the command; its largest anonymous memory in MB, and the seconds it took."""
    started, most = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-m", "ggquant", *words])
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        found = [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")]
        most = max(most, *found, 0)
        time.sleep(0.02)
    if process.wait():
        sys.exit(process.returncode)
    return most / 1024, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--pre", default="gpt-2")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "source"
        source.mkdir()
        total = write(source, given.tokenizer, given.layers)
        print(f"{total / 1e9:.2f} GB in bf16")
        for layout, format in FORMATS.items():
            packed = folder / layout
            memory, seconds = peak(["export", "--quiet", str(source), str(packed), "--to", layout])
            print(f"export to {layout:20}{memory:6.0f} MB {seconds:6.1f} s")
            words = ["quantize", "--quiet", str(packed), str(folder / f"{layout}.gguf"), format, "--pre", given.pre]
            memory, seconds = peak(words)
            print(f"{layout:20} to {format:7}{memory:6.0f} MB {seconds:6.1f} s")


if __name__ == "__main__":
    main()

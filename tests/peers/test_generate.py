"""Files we wrote, in llama.cpp: they load, predict text as they should, and generate the same from shards."""

from __future__ import annotations

import math
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

import ggquant as gg
from conftest import TINYLM

TEXT = b"The meeting was held in the town hall, and the people who came to it were from all over the country."


def load(path: Path, **options: object) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(path), n_ctx=256, n_threads=2, n_gpu_layers=0, verbose=False, **options)


def greedy(path: Path, count: int = 24) -> list[int]:
    model = load(path)
    tokens = []
    for token in model.generate(model.tokenize(TEXT), temp=0.0):
        tokens.append(token)
        if len(tokens) == count:
            break
    return tokens


def loss(path: Path) -> float:
    """Mean negative log-likelihood of `TEXT`, in nats a token."""
    model = load(path, logits_all=True)
    tokens = model.tokenize(TEXT)
    model.eval(tokens)
    logits = np.array(model.scores[: len(tokens) - 1], dtype=np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(tokens) - 1), tokens[1:]]
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen))


@pytest.fixture(scope="module")
def reference_loss(bf16: Path) -> float:
    return loss(bf16)


def test_the_model_knows_its_language(reference_loss: float) -> None:
    """With a wrong permutation, norm or tokenizer little is left but chance, the vocabulary's logarithm."""
    assert reference_loss < 0.75 * math.log(4096)


@pytest.mark.parametrize(
    ("variant", "slack"),
    [
        ("F16", 0.02),
        ("Q8_0", 0.02),
        ("Q6_K", 0.05),
        ("Q5_K_M", 0.1),
        ("Q4_K_M", 0.3),
        ("IQ4_XS", 0.3),
        ("Q3_K_M", 0.6),
    ],
)
def test_a_quantized_checkpoint_predicts_nearly_as_well(
    variant: str, slack: float, reference_loss: float, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    gg.convert(TINYLM, path, variant)
    assert abs(loss(path) - reference_loss) < slack


def test_shards_generate_what_the_whole_does(tmp_path: Path) -> None:
    whole = gg.convert(TINYLM, tmp_path / "whole.gguf", "Q4_K_M").path
    converted = gg.convert(TINYLM, tmp_path / "parts.gguf", "Q4_K_M", split_max_tensors=20)
    split = gg.split(whole, tmp_path / "split", max_size=2_000_000)
    assert len(converted.paths) > 1 and len(split) > 1
    expected = greedy(whole)
    assert len(expected) == 24
    assert greedy(converted.paths[0]) == expected
    assert greedy(Path(split[0])) == expected

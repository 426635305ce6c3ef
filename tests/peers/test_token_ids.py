"""Token ids of random texts by llama.cpp's tokenizer and ours, for a small vocabulary of every kind."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))

import ggquant as gg
from ggquant.tokenizing import load_tokenizer
from peer_tokenizer import Peer
from random_text import random_text
from tokenizing_cases import cases, marked

CASES = cases()
CHARSMAP = "tokenizer.ggml.precompiled_charsmap"


@pytest.mark.parametrize("name", CASES)
def test_random_texts_have_the_same_ids(name: str, rng: np.random.Generator, tmp_path: Path) -> None:
    metadata = gg.Metadata(CASES[name])
    if CHARSMAP in metadata:
        metadata[CHARSMAP] = gg.MetaValue("ARRAY", CASES[name][CHARSMAP], "INT8")
    path = tmp_path / "vocabulary.gguf"
    with gg.GGUFWriter(path, metadata):
        pass
    ours, theirs = load_tokenizer(path), Peer(path)
    try:
        for seed in rng.integers(1 << 62, size=40).tolist():
            text = random_text(seed)
            assert ours.encode(text, add_special=False) == theirs.encode(text, add_special=False, parse_special=False)
            text = marked(text, ours.special_texts)
            assert ours.encode(text, parse_special=True) == theirs.encode(text, add_special=True, parse_special=True)
    finally:
        theirs.close()

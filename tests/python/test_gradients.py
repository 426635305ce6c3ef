"""The way back through a model against PyTorch's, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ggquant as gg
from ggquant import runtime
from ggquant.runtime.backward import open_gradients
from runtime_cases import GRADIENT_CASES, ROWS, RUNTIME_CASES, slopes, tokens
from tiny_checkpoints import write

GOLDEN = Path(__file__).resolve().parents[1] / "data/runtime/gradients.npz"

#: Float32 on both sides, with other orders of additions, through a forward and a backward pass.
TOLERANCE = 2e-4


@pytest.mark.parametrize("name", GRADIENT_CASES)
def test_same_gradients_as_pytorch(name: str, tmp_path: Path) -> None:
    case = RUNTIME_CASES[name]
    model = runtime.open_model(write(case, tmp_path), pre=case.pre)
    ids = tokens(name)
    factors = slopes((*ids.shape, model.n_vocab))
    seen: dict[str, np.ndarray] = {}
    open_gradients(model).run(ids, lambda _logits, chunk: factors[chunk], lambda n, _x, dy: seen.update({n: dy}))
    with np.load(GOLDEN) as golden:
        theirs = golden[name]
    ours = seen["token_embd.weight"][list(ROWS)]
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()
    matrices = {t.name for t in model.source.tensors if len(t.shape) == 2 and t.name.startswith("blk.")}
    assert matrices <= seen.keys()


@pytest.mark.parametrize("name", sorted(RUNTIME_CASES.keys() - set(GRADIENT_CASES)))
def test_models_without_a_way_back_are_refused(name: str, tmp_path: Path) -> None:
    case = RUNTIME_CASES[name]
    model = runtime.open_model(write(case, tmp_path), pre=case.pre)
    with pytest.raises(gg.UnsupportedError, match="gradients are not available"):
        open_gradients(model)

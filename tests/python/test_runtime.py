"""The forward pass against transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggquant import runtime
from runtime_cases import ROWS, RUNTIME_CASES, tokens
from tiny_checkpoints import write

GOLDEN = Path(__file__).resolve().parents[1] / "data/runtime/logits.npz"

#: Both sides compute in float32, with other orders of additions; a wrong mask, angle or scale gives 1e-2 and more.
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", RUNTIME_CASES)
def test_same_logits_as_transformers(name: str, tmp_path: Path) -> None:
    case = RUNTIME_CASES[name]
    model = runtime.open_model(write(case, tmp_path), pre=case.pre)
    h = model.forward(tokens(name))
    result = model.logits(h) if model.causal else model.normalized(h)
    ours = result.reshape(-1, result.shape[-1])[list(ROWS)]
    with np.load(GOLDEN) as golden:
        theirs = golden[name]
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()

"""Memory that solving takes, told before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

import ggquant as gg
from ggquant.layerwise import LayerwiseOptions
from ggquant.layerwise.needs import check_memory, memory_needs
from ggquant.runtime import open_model

MODEL = Path(__file__).parents[1] / "data" / "tinylm"


def test_needs_grow_with_the_text_and_with_gradients() -> None:
    model = open_model(MODEL)
    formats = {t.name: "Q4_K" for t in model.source.tensors if len(t.shape) == 2}
    normal, best = LayerwiseOptions.of("normal"), LayerwiseOptions.of("best")
    small = memory_needs(model, 8, 512, formats, normal)
    large = memory_needs(model, 80, 512, formats, normal)
    # Two sets of hidden states, and the inputs of a layer's weights, for 72 chunks more.
    assert large - small >= 2 * 72 * 512 * model.hidden_size * 4
    gradients = memory_needs(model, 8, 512, formats, best) - small
    rows = [t.shape[0] for t in model.source.tensors if len(t.shape) == 2 and t.name.startswith("blk.")]
    assert gradients >= 8 * sum(n * n for n in rows)


def test_too_little_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggquant.layerwise.needs.free_bytes", lambda: 1_000_000_000)
    check_memory(900_000_000, "model")
    with pytest.raises(gg.UsageError, match=r"about 3.0 GB of memory, and 1.0 GB are free; use fewer --chunks"):
        check_memory(3_000_000_000, "model")

"""Decisions for twelve real models against the snapshots that llama.cpp keeps for its own tests (no
imatrix)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from decision_text import from_lines, tensors_from
from ggquant.policy import ModelFacts, choose

DATA: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data/variants/snapshots.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("model", DATA)
def test_decisions_are_those_of_the_snapshot(model: str) -> None:
    data = DATA[model]
    tensors = [(name, shape, "F64") for name, shape in tensors_from(data["tensors"])]
    layers = data["n_layer"]
    heads, kv_heads = (data["n_head"],) * layers, (data["n_head_kv"],) * layers
    facts = ModelFacts(data["arch"], layers, heads, kv_heads, data.get("n_expert", 0))
    for variant, (default, *lines) in data["decisions"].items():
        exceptions = from_lines(lines)
        decided = {d.name: d.format for d in choose(facts, tensors, variant)}
        assert exceptions.keys() <= decided.keys(), variant
        expected = {name: exceptions.get(name, default) for name in decided}
        assert decided == expected, variant


def test_snapshots_cover_the_models_and_most_variants() -> None:
    assert len(DATA) == 12
    assert all(len(data["decisions"]) >= 33 for data in DATA.values())
    for data in DATA.values():
        assert len(tensors_from(data["tensors"])) == data["count"]

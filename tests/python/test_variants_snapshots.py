"""Decisions for twelve real models against the snapshots that llama.cpp keeps for its own tests (no imatrix)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ggquant.variants import ModelFacts, choose

from decision_text import from_lines, tensors_from

DATA: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data/variants/snapshots.json").read_text(encoding="utf-8")
)
CASES = [(model, variant) for model, data in DATA.items() for variant in data["decisions"]]


@pytest.mark.parametrize(("model", "variant"), CASES)
def test_decisions_are_those_of_the_snapshot(model: str, variant: str) -> None:
    data = DATA[model]
    tensors = [(name, shape, "F64") for name, shape in tensors_from(data["tensors"])]
    layers = data["n_layer"]
    facts = ModelFacts(
        data["arch"],
        layers,
        (data["n_head"],) * layers,
        (data["n_head_kv"],) * layers,
        data.get("n_expert", 0),
    )
    default, *lines = data["decisions"][variant]
    exceptions = from_lines(lines)
    decided = {d.name: d.format for d in choose(facts, tensors, variant)}
    assert exceptions.keys() <= decided.keys()
    expected = {name: exceptions.get(name, default) for name in decided}
    assert decided == expected


def test_snapshots_cover_the_models_and_most_variants() -> None:
    assert len(DATA) == 12
    assert all(len(data["decisions"]) >= 33 for data in DATA.values())
    for data in DATA.values():
        assert len(tensors_from(data["tensors"])) == data["count"]

"""Decisions for random models against what `llama-quantize --dry-run` said of them (made by tests/peers)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from decision_text import from_lines, tensors_from
from ggquant.overrides import Options, parse_tensor_type
from ggquant.policy import VARIANTS, ModelFacts, PolicyError, choose, find_variant, refusals
from ggquant.policy.refuse import Obstacle

MODELS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "data/variants/decisions.json").read_text(encoding="utf-8")
)


def headers(model: dict[str, Any]) -> list[tuple[str, tuple[int, ...], str]]:
    return [
        (name, shape, "F32" if len(shape) == 1 else model["floats"]) for name, shape in tensors_from(model["tensors"])
    ]


def options(answer: dict[str, Any]) -> Options:
    given = dict(answer.get("options", {}))
    given["tensor_types"] = [parse_tensor_type(t) for t in given.get("tensor_types", ())]
    return Options(**given)


@pytest.mark.parametrize("index", range(len(MODELS)))
def test_decisions_are_those_of_llama_quantize(index: int) -> None:
    model = MODELS[index]
    metadata = {f"{model['arch']}.{key}": value for key, value in model["facts"].items()}
    facts = ModelFacts.from_metadata({"general.architecture": model["arch"], **metadata})
    tensors = headers(model)
    for answer in model["answers"]:
        imatrix = answer.get("imatrix", False)
        if answer.get("refused"):
            with pytest.raises(PolicyError):
                choose(facts, tensors, answer["variant"], imatrix=imatrix, options=options(answer))
            continue
        decisions = choose(facts, tensors, answer["variant"], imatrix=imatrix, options=options(answer))
        exceptions = from_lines(answer["formats"])
        assert exceptions.keys() <= {d.name for d in decisions}
        default = find_variant(answer["variant"]).format
        assert {d.name: d.format for d in decisions} == {d.name: exceptions.get(d.name, default) for d in decisions}, (
            answer
        )
        missing = [r for r in refusals(decisions, imatrix=imatrix) if r.kind is Obstacle.IMATRIX]
        assert bool(missing) == answer.get("wants_imatrix", False)


def test_answers_cover_every_variant_of_llama_quantize() -> None:
    asked = {find_variant(a["variant"]).name for m in MODELS for a in m["answers"]}
    assert asked == {name for name, v in VARIANTS.items() if v.base is None}
    assert sum("options" in a for m in MODELS for a in m["answers"]) >= 40
    assert sum(a.get("refused", False) for m in MODELS for a in m["answers"]) > 5
    assert len({m["arch"] for m in MODELS}) > 20

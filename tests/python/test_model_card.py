"""Names, sizes and model cards against what llama.cpp's gguf-py makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ggquant.model import SourceTensor
from ggquant.model_card import describe, size_label
from ggquant.model_name import dissect, title

RECORD = json.loads((Path(__file__).resolve().parents[1] / "data" / "model_names.json").read_text())


@pytest.mark.parametrize(("name", "parameters", "parts", "words"), RECORD["names"])
def test_identifiers_come_apart_as_in_gguf_py(name: str, parameters: int, parts: list[str], words: str) -> None:
    found = dissect(name, parameters)
    assert [
        found.name, found.organization, found.basename, found.finetune, found.version, found.size_label
    ] == parts  # fmt: skip
    assert title(name) == words


@pytest.mark.parametrize(("count", "label"), RECORD["sizes"])
def test_sizes(count: int, label: str) -> None:
    assert size_label([SourceTensor("a", (count,), "F32")]) == label


def test_experts_share_a_size() -> None:
    tensors = [
        SourceTensor("token_embd.weight", (1000, 1000), "F32"),
        SourceTensor("blk.0.ffn_up_exps.weight", (8, 1000, 1000), "F32"),
        SourceTensor("blk.0.ffn_up_exps.bias", (8, 1000), "F32"),
    ]
    assert size_label(tensors) == "8x2.0M"


def described(folder: Path, card: str) -> tuple[dict[str, Any], list[str]]:
    (folder / "README.md").write_text(card, encoding="utf-8")
    warnings: list[str] = []
    found = describe(folder, [SourceTensor("a", (1000,), "F32")], warnings)
    return {key: value.value for key, value in found.items()}, warnings


@pytest.mark.parametrize(
    "card",
    [
        "",
        "no front matter",
        "---\n- a list\n---\n",
        "---\nlicense: [\n---\n",
        "---\na: &a [x, x]\nb: [*a, *a]\n---\n",
        "---\na: !!python/object/apply:os.system ['true']\n---\n",
        "---\n" + "[" * 5000 + "\n---\n",
    ],
)
def test_a_card_that_cannot_be_read_is_left_out(tmp_path: Path, card: str) -> None:
    folder = tmp_path / "some-model"
    folder.mkdir()
    found, _ = described(folder, card)
    assert found == {"general.type": "model", "general.name": "Some Model", "general.size_label": "1.0K"}


def test_a_card_with_every_field(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    card = """---
name: The Name
model_creator: Somebody
version: 2
license: [mit, other]
license_name: own
license_link: https://example.org/licence
base_model: [a-org/A-1B, https://huggingface.co/b-org/B-v2, {name: C, doi: 10.1/2}]
datasets: some-org/some-data
tags: [x]
language: [en, no]
---
"""
    found, warnings = described(folder, card)
    assert not warnings
    assert found["general.name"] == "The Name"
    assert found["general.author"] == "Somebody"
    assert found["general.version"] == "2"
    assert found["general.license"] == "mit,other"
    assert found["general.base_model.count"] == 3
    assert found["general.base_model.1.repo_url"] == "https://huggingface.co/b-org/B-v2"
    assert found["general.base_model.2.name"] == "C"
    assert found["general.dataset.0.repo_url"] == "https://huggingface.co/some-org/some-data"
    assert found["general.languages"] == ["en", "no"]

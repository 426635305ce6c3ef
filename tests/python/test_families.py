"""Every model family against what llama.cpp's converter made of the same checkpoint."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import digests
from family_cases import CASES
from ggquant.model import MetaDict
from ggquant.source_hf import open_checkpoint
from tiny_checkpoints import write
from view_data import tensor_data

RECORDS = Path(__file__).resolve().parents[1] / "data" / "families"


def entries(metadata: MetaDict) -> list[list[Any]]:
    found = []
    for key, value in metadata.items():
        items = value.value if isinstance(value.value, list | tuple) else [value.value]
        found.append(digests.entry(key, value.type, value.item_type, list(items)))
    return found


@pytest.mark.parametrize("name", CASES)
def test_same_metadata_and_tensors_as_llama_cpp(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    record = json.loads((RECORDS / f"{name}.json").read_text())
    model = open_checkpoint(write(case, tmp_path), case.pre)
    assert entries(model.metadata) == record["metadata"]
    tensors = [[t.name, list(t.shape), t.dtype, sha256(tensor_data(t)).hexdigest()] for t in model.tensors]
    assert tensors == record["tensors"]

"""Whole files against llama.cpp's: the converter's and llama-quantize's output for the bundled model, byte for byte."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import ggquant as gg
from convert_cases import CASES, CONVERT, REFUSED, Case, checkpoint
from ggquant.overrides import Options, parse_prune_layers

RECORD: dict[str, Any] = json.loads((CONVERT / "digests.json").read_text())


class Sources:
    """What cases start from, made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Path] = {}

    def get(self, name: str) -> Path:
        if name not in self._made:
            if name in CASES:
                path = self._folder / f"{name}.gguf"
                convert(CASES[name], self, path)
            else:
                path = checkpoint(name, self._folder)
            self._made[name] = path
        return self._made[name]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"))


def convert(case: Case, sources: Sources, target: Path) -> gg.ConversionReport:
    words = case.options
    options = Options(
        allow_requantize="--allow-requantize" in words,
        prune_layers=parse_prune_layers(words[1]) if "--prune-layers" in words else (),
    )
    return gg.convert(sources.get(case.source), target, case.variant, imatrix=case.imatrix, options=options)


def test_every_case_is_recorded_and_every_variant_is_a_case() -> None:
    assert list(RECORD) == list(CASES)
    assert {case.variant for case in CASES.values()} == {v.name for v in gg.variants() if v.base is None}


@pytest.mark.parametrize("name", CASES)
def test_same_file_as_llama_cpp(name: str, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, expected = CASES[name], RECORD[name]
    # The matrix's path becomes part of the file.
    monkeypatch.chdir(CONVERT)
    target = tmp_path / "out.gguf"
    if expected == REFUSED:
        # Codebooks without importances, or a source that is quantized already.
        kind, why = (
            (gg.ImatrixError, "needs an importance matrix") if case.source == "bf16" else (gg.UsageError, "already")
        )
        with pytest.raises(kind, match=why) as caught:
            convert(case, sources, target)
        assert caught.value.tensor is not None and f"'{caught.value.tensor}'" in str(caught.value)
        assert not list(tmp_path.iterdir())
        return
    report = convert(case, sources, target)
    data = target.read_bytes()
    start = min(tensor.offset for tensor in gg.open(target).tensors.values())
    header = sha256(data[:start]).hexdigest()
    assert {"size": len(data), "header": header, "file": sha256(data).hexdigest()} == expected
    assert report.paths == [target] and report.total_bytes == len(data)
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]

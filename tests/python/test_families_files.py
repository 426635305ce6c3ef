"""Whole files of every model family against llama-quantize's: not quantized, mixed, and weighted."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

import digests
import ggquant as gg
from family_cases import CASES
from ggquant.source_hf import open_checkpoint
from tiny_checkpoints import write

RECORDS = Path(__file__).resolve().parents[1] / "data" / "families"
WANTED = [
    (name, variant, digest)
    for name in CASES
    for variant, digest in json.loads((RECORDS / f"{name}.json").read_text())["files"].items()
]


@pytest.mark.parametrize(("name", "variant", "digest"), WANTED, ids=[f"{n}-{v}" for n, v, _ in WANTED])
def test_same_file_as_llama_quantize(
    name: str, variant: str, digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    folder = write(case, tmp_path)
    monkeypatch.chdir(tmp_path)
    imatrix = None
    if variant == "IQ3_S":
        tensors = open_checkpoint(folder, case.pre).tensors
        digests.write_imatrix(Path("imatrix.dat"), [(t.name, t.shape) for t in tensors])
        imatrix = "imatrix.dat"
    report = gg.convert(folder, "out.gguf", variant, imatrix=imatrix, pre=case.pre)
    assert sha256(report.path.read_bytes()).hexdigest() == digest

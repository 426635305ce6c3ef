"""GGUF to GGUF: for every variant the whole file is the one that `llama_model_quantize` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

import ggquant as gg
from ggquant.policy import VARIANTS
from quantizer import quantize

#: Variants that llama.cpp has; ours in addition (Q4_K_L and its kin) are spelled there with options.
THEIRS = [variant for variant in VARIANTS.values() if variant.base is None and not variant.copies]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "imatrix"])
@pytest.mark.parametrize("variant", THEIRS, ids=lambda variant: variant.name)
def test_whole_file(variant, weighted: bool, bf16: Path, imatrix: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    importances = imatrix if weighted else None
    if not quantize(bf16, theirs, variant.file_type, imatrix=importances):
        with pytest.raises(gg.ImatrixError):
            gg.convert(bf16, ours, variant.name, imatrix=importances)
        assert not ours.exists()
        return
    gg.convert(bf16, ours, variant.name, imatrix=importances)
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_variant_without_its_imatrix_is_refused_by_both(bf16: Path, tmp_path: Path) -> None:
    assert not quantize(bf16, tmp_path / "theirs.gguf", VARIANTS["IQ2_XS"].file_type, imatrix=None)
    with pytest.raises(gg.ImatrixError, match="IQ2_XS"):
        gg.convert(bf16, tmp_path / "ours.gguf", "IQ2_XS")


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_threads_do_not_change_a_byte(threads: int, bf16: Path, imatrix: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    gg.convert(bf16, ours, "IQ3_M", imatrix=imatrix, threads=threads)
    assert quantize(bf16, theirs, VARIANTS["IQ3_M"].file_type, imatrix=imatrix, threads=threads)
    assert ours.read_bytes() == theirs.read_bytes()

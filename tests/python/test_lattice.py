"""Weights that are values of a block format already: their own codes are found again."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import ggquant as gg
from ggquant.export.run import export_checkpoint
from ggquant.export.scheme import Layout, Scheme

TINYLM = Path(__file__).resolve().parents[1] / "data" / "tinylm"


def _published(folder: Path, format: str, to: Layout, scheme: Scheme, dtype: str) -> Path:
    """The bundled model quantized by rounding, and published in full precision.

    Rounding to nearest spreads a group from -7.5 to 7.5 scales, where the encoders of GGUF formats want one end at -8:
    encoding these values anew gives other codes.
    """
    export_checkpoint(TINYLM, folder / "packed", to, scheme=scheme, threads=1)
    packed = gg.convert(folder / "packed", folder / "packed.gguf", format, options=gg.Options(pure=True), pre="gpt-2")
    source = gg.open(packed.path)
    exact = {t.name for t in packed.tensors if t.transcoding is not None and t.transcoding.startswith("exact")}
    with gg.GGUFWriter(folder / "full.gguf", source.metadata) as writer:
        for name, tensor in source.tensors.items():
            kind = dtype if len(tensor.shape) == 2 else "float32"
            values = tensor.dequantize(kind, threads=1)
            # What was encoded in the ordinary way has other codes than by rounding; any values will do for it here.
            writer.add(name, values if name in exact or len(tensor.shape) == 1 else np.zeros_like(values))
    return folder / "full.gguf"


def _values(path: Path, dtype: str) -> dict[str, npt.NDArray[np.uint8]]:
    tensors = gg.open(path).tensors
    kinds = {name: dtype if len(tensor.shape) == 2 else "float32" for name, tensor in tensors.items()}
    # Adding 0 takes the sign off zeros: it follows that of the scale.
    return {name: (tensor.dequantize(kinds[name], threads=1) + 0).view(np.uint8) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("format", "to", "scheme", "dtype"),
    [
        ("Q4_0", "gptq", Scheme(4, 32, True), "bfloat16"),
        ("Q5_0", "compressed-tensors", Scheme(5, 32, True), "bfloat16"),
        ("Q8_0", "gptq", Scheme(8, 32, True), "float32"),
    ],
)
def test_codes_are_found_again(tmp_path: Path, format: str, to: Layout, scheme: Scheme, dtype: str) -> None:
    source = _published(tmp_path, format, to, scheme, dtype)
    options = gg.Options(pure=True, encoder="lattice")
    report = gg.convert(source, tmp_path / "again.gguf", format, options=options)
    blocks = {t.name: prod(t.shape) // 32 for t in report.tensors if t.format == format}
    assert len(blocks) > 40
    assert report.on_grid == blocks
    wanted, found = _values(source, dtype), _values(tmp_path / "again.gguf", dtype)
    for name in blocks:
        assert np.array_equal(wanted[name], found[name]), name


def test_the_ordinary_encoder_loses_them(tmp_path: Path) -> None:
    source = _published(tmp_path, "Q4_0", "gptq", Scheme(4, 32, True), "bfloat16")
    report = gg.convert(source, tmp_path / "again.gguf", "Q4_0", options=gg.Options(pure=True))
    assert report.on_grid == {}
    wanted, found = _values(source, "bfloat16"), _values(tmp_path / "again.gguf", "bfloat16")
    assert not np.array_equal(wanted["blk.0.ffn_up.weight"], found["blk.0.ffn_up.weight"])


def test_weights_that_are_on_no_grid(tmp_path: Path) -> None:
    pure = {"pure": True}
    plain = gg.convert(TINYLM, tmp_path / "plain.gguf", "Q4_0", options=gg.Options(**pure), pre="gpt-2")
    options = gg.Options(**pure, encoder="auto")
    auto = gg.convert(TINYLM, tmp_path / "auto.gguf", "Q4_0", options=options, pre="gpt-2")
    found = sum(auto.on_grid.values())
    assert found < sum(prod(t.shape) // 32 for t in auto.tensors) / 1000
    if found == 0:
        assert plain.path.read_bytes() == auto.path.read_bytes()
    with pytest.raises(gg.InvalidBlockError, match="not values of Q4_0"):
        options = gg.Options(**pure, encoder="lattice")
        gg.convert(TINYLM, tmp_path / "only.gguf", "Q4_0", options=options, pre="gpt-2")
    assert not (tmp_path / "only.gguf").exists()
    with pytest.raises(gg.UsageError, match="--encoder best"):
        gg.Options(encoder="best")


@pytest.mark.parametrize("variant", ["Q4_K_M", "Q2_K", "IQ4_XS"])
def test_mixtures_of_k_quants_are_found_again(tmp_path: Path, variant: str) -> None:
    made = gg.open(gg.convert(TINYLM, tmp_path / "made.gguf", variant, pre="gpt-2").path)
    with gg.GGUFWriter(tmp_path / "full.gguf", made.metadata) as writer:
        for name, tensor in made.tensors.items():
            writer.add(name, tensor.dequantize("bfloat16" if len(tensor.shape) == 2 else "float32", threads=1))
    options = gg.Options(encoder="lattice")
    again = gg.convert(tmp_path / "full.gguf", tmp_path / "again.gguf", variant, options=options)
    assert len(again.on_grid) > 40
    assert {t.format for t in again.tensors} == {t.format for t in made.tensors.values()}
    wanted, found = (_values(path, "bfloat16") for path in (tmp_path / "full.gguf", again.path))
    for name in wanted:
        assert np.array_equal(wanted[name], found[name]), name

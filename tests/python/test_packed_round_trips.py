"""Whole packed checkpoints through GGUF files and back: every code, scale and zero point comes back as it was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ggquant as gg
import tiny_checkpoints
from ggquant.checkpoint_index import read_header
from ggquant.export.folder import Entry, ShardWriter
from ggquant.export.layouts import Codes, Part, parts
from ggquant.export.run import export_checkpoint
from ggquant.export.scheme import Layout, Scheme
from packed_files import array
from tiny_tokenizers import byte_level

_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 1,
    "vocab_size": 288,
    "hidden_size": 96,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "float16",
}

#: Exponents of scales: from the smallest subnormal f16 to one whose 255 steps, or minimum, still are an f16 number.
_EXPONENTS = (-24, 7)


@dataclass(frozen=True)
class Packed:
    """A packed checkpoint to make: its layout, scheme, config.json and the seed of its codes."""

    layout: Layout
    scheme: Scheme
    config: dict[str, Any]
    seed: int

    @property
    def format(self) -> str:
        """The block format that holds its codes; 8 bits with zero points of their own fit none."""
        if self.scheme.bits == 8:
            return "Q8_0"
        return "Q4_0" if self.scheme.symmetric else "Q4_1"


@st.composite
def checkpoints(draw: st.DrawFn) -> Packed:
    """Any widths, groups and symmetry; rows that groups and words do not divide."""
    layout: Layout = draw(st.sampled_from(["gptq", "gptq_v2"]))
    bits = draw(st.sampled_from([2, 3, 4, 8]))
    symmetric = bits == 8 or draw(st.booleans())
    scheme = Scheme(bits, draw(st.sampled_from([32, 64, 96, 128, -1])), symmetric)
    # One row alone would be a vector to GGUF, which is never quantized.
    # Heads of 6, 10, 12 or 22 values: k and v have few rows, no multiple of the 4 to 16 codes of a word.
    head = draw(st.sampled_from([6, 10, 12, 22]))
    config = {
        **_CONFIG,
        "hidden_size": 32 * draw(st.integers(1, 9)),
        "intermediate_size": draw(st.one_of(st.integers(1, 9).map(lambda n: 32 * n), st.integers(2, 300))),
        "num_key_value_heads": draw(st.sampled_from([1, 2, 4])),
        "head_dim": head,
    }
    return Packed(layout, scheme, config, draw(st.integers(0, 2**32)))


def _codes(made: Packed, shape: tuple[int, int], random: np.random.Generator) -> Codes:
    rows, columns = shape
    scheme = made.scheme
    groups = scheme.groups(columns)
    scales = (1 + random.random((rows, groups))) * 2.0 ** random.integers(*_EXPONENTS, (rows, groups))
    zeros = random.integers(1 if made.layout == "gptq" else 0, 1 << scheme.bits, (rows, groups), dtype=np.uint8)
    if scheme.symmetric:
        zeros[:] = 1 << scheme.bits - 1
    codes = random.integers(0, 1 << scheme.bits, shape, dtype=np.uint8)
    return Codes(codes, scales.astype(np.float16).astype(np.float32), zeros)


def _write(made: Packed, folder: Path) -> list[str]:
    """Writes the checkpoint; the names of its modules whose rows are whole blocks."""
    random = np.random.default_rng(made.seed)
    folder.mkdir()
    byte_level()(folder)
    modules: dict[str, tuple[Codes, list[Part]]] = {}
    others: dict[str, npt.NDArray[Any]] = {}
    for name, shape in tiny_checkpoints.decoder(made.config).items():
        module = name.removesuffix(".weight")
        if module.endswith(_LINEAR):
            rows, columns = shape
            own = parts(made.layout, made.scheme, rows, columns, "F16", threads=1)
            modules[module] = _codes(made, (rows, columns), random), own
        else:
            others[name] = random.standard_normal(shape).astype(np.float16)
    entries = [Entry(name, "F16", values.shape) for name, values in others.items()]
    entries += [Entry(f"{name}.{p.end}", p.dtype, p.shape) for name, (_, own) in modules.items() for p in own]
    writer = ShardWriter(folder, entries, 1 << 40)
    for name, values in others.items():
        writer.write(name, values)
    for name, (codes, own) in modules.items():
        for part in own:
            writer.write(f"{name}.{part.end}", part.make(codes))
    writer.close()
    scheme = made.scheme
    quantization = {
        "quant_method": "gptq", "checkpoint_format": made.layout, "bits": scheme.bits,
        "group_size": scheme.group_size, "sym": scheme.symmetric, "desc_act": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**made.config, "quantization_config": quantization}))
    return [name for name, (codes, _) in modules.items() if codes.codes.shape[1] % 32 == 0]


def _stored(folder: Path) -> dict[str, npt.NDArray[Any]]:
    found = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in read_header(path).items()}
    return {name: array(tensor) for name, tensor in found.items()}


@settings(max_examples=40, deadline=None)
@given(checkpoints())
def test_every_code_scale_and_zero_point_comes_back(tmp_path_factory: pytest.TempPathFactory, made: Packed) -> None:
    root = tmp_path_factory.mktemp("trip")
    whole = _write(made, root / "packed")
    pure = gg.Options(pure=True)
    report = gg.convert(root / "packed", root / "out.gguf", made.format, options=pure, pre="gpt-2", threads=1)
    kinds = {t.name: t.transcoding for t in report.tensors if t.transcoding}
    kept = [name for name, kind in kinds.items() if kind.startswith("exact")]
    # Rows that are no whole blocks cannot take the format: only `ffn_down`, and the report says what becomes of it.
    assert len(kept) == len(whole), kinds
    assert len(kinds) == len(_LINEAR)
    assert all(name == "blk.0.ffn_down.weight" and ":" in kinds[name] for name in kinds.keys() - set(kept))
    again = export_checkpoint(
        root / "out.gguf", root / "back", made.layout, scheme=made.scheme, like=root / "packed", threads=1
    )
    assert {module.name: module.how for module in again.modules if module.how == "exact"}.keys() == set(whole)
    first, second = _stored(root / "packed"), _stored(root / "back")
    assert first.keys() == second.keys()
    for name, values in first.items():
        module = name.rpartition(".")[0]
        if module in whole:
            assert second[name].dtype == values.dtype
            assert np.array_equal(second[name], values), name


def _file(root: Path, bits: int, group_size: int, symmetric: bool) -> tuple[Path, Path]:
    """A checkpoint with rows of 96 and 160 weights, and the GGUF file made from it."""
    made = Packed("gptq", Scheme(bits, group_size, symmetric), {**_CONFIG, "head_dim": 6, "intermediate_size": 160}, 1)
    _write(made, root / "packed")
    gg.convert(root / "packed", root / "out.gguf", made.format, options=gg.Options(pure=True), pre="gpt-2", threads=1)
    return root / "packed", root / "out.gguf"


def test_groups_cut_short_are_found_where_a_layout_has_them(tmp_path: Path) -> None:
    """Rows of 96 are a group of 64 and half of one; compressed-tensors divides rows without a rest: groups of 32."""
    like, file = _file(tmp_path, 4, 64, True)
    for to, size in (("gptq", 64), ("compressed-tensors", 32)):
        report = export_checkpoint(file, tmp_path / to, to, like=like, method="keep", threads=1)
        assert {(module.how, module.group_size) for module in report.modules} == {("exact", size)}


def test_another_scheme_than_that_of_the_blocks(tmp_path: Path) -> None:
    like, file = _file(tmp_path, 3, 64, True)
    wide = export_checkpoint(file, tmp_path / "wide", "gptq", scheme=Scheme(8, 32, True), like=like, threads=1)
    assert {module.how for module in wide.modules} == {"exact"}
    narrow = export_checkpoint(file, tmp_path / "narrow", "gptq", scheme=Scheme(2, 32, True), like=like, threads=1)
    why = "its codes are of 4 bits, symmetric groups of 64, and 2 bits, symmetric groups of 32 are asked for"
    assert {module.how for module in narrow.modules} == {f"re-quantized: {why}"}
    with pytest.raises(gg.UnsupportedError, match=r"codes cannot be kept: its codes are of 4 bits"):
        export_checkpoint(
            file, tmp_path / "kept", "gptq", scheme=Scheme(2, 32, True), like=like, method="keep", threads=1
        )

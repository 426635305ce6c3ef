"""Exports: what is written is read back as it was, whatever the layout; codes go through GGUF files and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ggquant as gg
import tiny_checkpoints
from family_cases import CASES
from ggquant import _native
from ggquant.checkpoint_index import read_header
from ggquant.cli.checkpoint import inspect_checkpoint
from ggquant.export.folder import Entry, ShardWriter
from ggquant.export.layouts import Codes, parts
from ggquant.export.modules import StoredWeights
from ggquant.export.run import ExportReport, export_checkpoint
from ggquant.export.scheme import WIDTHS, Layout, Scheme, obstacle
from ggquant.packed.check import compare_values
from packed_files import MODULE, array, read, weight

TINYLM = Path(__file__).resolve().parents[1] / "data" / "tinylm"


@st.composite
def modules(draw: st.DrawFn) -> tuple[Layout, Scheme, Codes, str]:
    """A module of any shape that its layout can hold."""
    layout: Layout = draw(st.sampled_from(list(WIDTHS)))
    bits = draw(st.sampled_from(WIDTHS[layout]))
    group_size = draw(st.sampled_from([16, 32, 48, -1]))
    rows = draw(st.integers(1, 70)) * (8 if layout == "awq" else 1)
    columns = draw(st.integers(1, 150))
    if layout in ("awq", "compressed-tensors") and group_size != -1:
        columns = group_size * draw(st.integers(1, 4))
    scheme = Scheme(bits, group_size, draw(st.booleans()))
    groups = scheme.groups(columns)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    scales = (random.random((rows, groups)) * 0.01 + 1e-4).astype(np.float16)
    dtype = draw(st.sampled_from(["F16", "BF16", "F32"])) if layout == "compressed-tensors" else "F16"
    if dtype == "BF16":
        scales = scales.astype(ml_dtypes.bfloat16)
    low = 1 if layout == "gptq" else 0
    zeros = random.integers(low, 1 << bits, (rows, groups), dtype=np.uint8)
    if scheme.symmetric:
        zeros[:] = 1 << bits - 1
    codes = random.integers(0, 1 << bits, (rows, columns), dtype=np.uint8)
    listed = None
    if layout.startswith("gptq") and draw(st.booleans()):
        listed = random.permutation(np.arange(columns, dtype=np.int32) // scheme.group_len(columns))
    return layout, scheme, Codes(codes, scales.astype(np.float32), zeros, listed), dtype


@settings(max_examples=150, deadline=None)
@given(modules())
def test_codes_scales_and_zero_points_come_back(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[Layout, Scheme, Codes, str]
) -> None:
    layout, scheme, codes, dtype = made
    rows, columns = codes.codes.shape
    assert not obstacle(layout, scheme, rows, columns)
    act_order = codes.listed is not None
    tensors = parts(layout, scheme, rows, columns, dtype, threads=1)
    folder = tmp_path_factory.mktemp("module")
    writer = ShardWriter(folder, [Entry(f"{MODULE}.{p.end}", p.dtype, p.shape) for p in tensors], 1 << 40)
    for part in tensors:
        writer.write(f"{MODULE}.{part.end}", part.make(codes))
    writer.close()
    args = {"num_bits": scheme.bits, "symmetric": scheme.symmetric, "group_size": scheme.group_size}
    config: dict[str, Any] = {
        "quant_method": layout.removesuffix("_v2"),
        "checkpoint_format": layout,
        "bits": scheme.bits,
        "group_size": scheme.group_size,
        "sym": scheme.symmetric,
        "desc_act": act_order,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args}},
    }
    if layout == "awq":
        config["checkpoint_format"] = "gemm"
    stored = read_header(folder / "model.safetensors")
    tensor = weight(stored, config)
    found = StoredWeights(tensor).codes(1)
    assert found is not None
    assert np.array_equal(found[1].codes, codes.codes)
    assert np.array_equal(found[1].scales, codes.scales)
    assert np.array_equal(found[1].zeros, codes.zeros)
    groups = np.arange(columns) // scheme.group_len(columns) if codes.listed is None else codes.listed
    difference = codes.codes.astype(np.float32) - codes.zeros.astype(np.float32)[:, groups]
    assert np.array_equal(read(tensor), difference * codes.scales[:, groups])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([2, 3, 4, 8]), st.sampled_from([16, 32, 40]), st.booleans(), st.integers(0, 2**32))
def test_rounding_to_nearest(bits: int, group: int, symmetric: bool, seed: int) -> None:
    """No weight is further from its value than half a step, but for what the stored scale is off."""
    random = np.random.default_rng(seed)
    x = (random.standard_normal((5, 80)) * 10.0 ** random.integers(-6, 3)).astype(np.float32)
    codes, scales, zeros = _native.round_to_nearest(x.reshape(-1), 80, bits, group, symmetric, "F16", 0, 1)
    groups = np.arange(80) // group
    per_row = scales.reshape(5, -1)[:, groups].astype(np.float64)
    back = (codes.reshape(5, 80).astype(np.float64) - zeros.reshape(5, -1)[:, groups]) * per_row
    assert codes.max() < 1 << bits
    assert np.array_equal(scales.astype(np.float16).astype(np.float32), scales)
    # The range's ends are up to half a step outside where the zero point is rounded, and an f16 scale is off by up to
    # one part in 2048 (or half the smallest subnormal) at each of the 2^bits steps.
    slack = (1 << bits) * np.maximum(per_row / 2048, 2.0**-25)
    assert (np.abs(back - x) <= per_row * (0.5 if symmetric else 1.0) + slack + per_row * 1e-5).all()


def test_groups_that_halves_cannot_scale_are_refused() -> None:
    x = np.full(32, 1e7, np.float32)
    with pytest.raises(gg.UnsupportedError, match="row 0, group 0: the scale is too large"):
        _native.round_to_nearest(x, 32, 4, 32, True, "F16", 0, 1)
    assert _native.round_to_nearest(x, 32, 4, 32, True, "BF16", 0, 1)[1][0] > 1e6
    tiny = np.full(32, 1e-12, np.float32)
    codes, scales, zeros = _native.round_to_nearest(tiny, 32, 4, 32, True, "F16", 0, 1)
    assert scales[0] == np.float32(2.0**-24)
    assert (codes == zeros[0]).all()


def _export(folder: Path, to: Layout, scheme: Scheme | None, source: Path = TINYLM, **options: Any) -> ExportReport:
    return export_checkpoint(source, folder, to, scheme=scheme, threads=1, **options)


def _weights(folder: Path) -> dict[str, npt.NDArray[np.uint8]]:
    found = {name: tensor for path in folder.glob("*.safetensors") for name, tensor in read_header(path).items()}
    return {name: array(tensor).reshape(-1).view(np.uint8) for name, tensor in found.items()}


@pytest.mark.parametrize(
    ("to", "scheme", "format"),
    [
        ("gptq", Scheme(4, 32, True), "Q4_0"),
        ("gptq_v2", Scheme(3, 64, True), "Q4_0"),
        ("gptq_v2", Scheme(4, 32, False), "Q8_0"),
        ("awq", Scheme(4, 64, False), "Q8_0"),
        ("gptq", Scheme(8, 128, True), "Q8_0"),
        ("compressed-tensors", Scheme(5, 32, True), "Q5_0"),
        ("compressed-tensors", Scheme(8, -1, True), "Q8_0"),
    ],
)
def test_exact_in_gguf_files(tmp_path: Path, to: Layout, scheme: Scheme, format: str) -> None:
    report = _export(tmp_path / "packed", to, scheme)
    assert len(report.modules) == 42
    assert report.kept == ["lm_head"]
    made = gg.convert(tmp_path / "packed", tmp_path / "out.gguf", format, options=gg.Options(pure=True), pre="gpt-2")
    exact = [t for t in made.tensors if t.transcoding == "exact"]
    # Scales of bf16 may be too small for f16; they are not here.
    assert len(exact) == 42
    assert {t.format for t in exact} == {format}
    names = {t.name for t in exact}
    compared = {c.tensor: c for c in compare_values(tmp_path / "packed", tmp_path / "out.gguf", pre="gpt-2")}
    assert all(compared[name].equal for name in names)
    assert not compared["token_embd.weight"].equal


@pytest.mark.parametrize(
    ("to", "scheme", "format"),
    [
        ("gptq", Scheme(4, 32, True), "Q4_0"),
        ("gptq_v2", Scheme(4, 64, False), "Q4_1"),
        ("gptq", Scheme(8, 128, True), "Q8_0"),
        ("compressed-tensors", Scheme(4, 128, True), "Q4_0"),
        ("compressed-tensors", Scheme(8, -1, True), "Q8_0"),
    ],
)
def test_there_and_back_keeps_every_code(tmp_path: Path, to: Layout, scheme: Scheme, format: str) -> None:
    folder, file, back = tmp_path / "packed", tmp_path / "out.gguf", tmp_path / "back"
    report = _export(folder, to, scheme)
    gg.convert(folder, file, format, options=gg.Options(pure=True), pre="gpt-2")
    again = _export(back, to, None, file, like=TINYLM, method="keep")
    assert {module.how for module in again.modules} == {"exact"}
    ends = ("qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "weight_zero_point")
    first, second = _weights(folder), _weights(back)
    modules = {name for name in first if name.endswith(ends)}
    assert len(modules) >= 2 * len(report.modules)
    for name in modules:
        assert np.array_equal(first[name], second[name]), name


def test_layouts_become_each_other(tmp_path: Path) -> None:
    _export(tmp_path / "a", "gptq", Scheme(4, 64, True))
    _export(tmp_path / "b", "compressed-tensors", None, tmp_path / "a")
    _export(tmp_path / "c", "awq", None, tmp_path / "b", method="keep")
    report = _export(tmp_path / "d", "gptq", None, tmp_path / "c", method="keep")
    assert {module.how for module in report.modules} == {"exact"}
    first, last = _weights(tmp_path / "a"), _weights(tmp_path / "d")
    assert first.keys() == last.keys()
    assert all(np.array_equal(first[name], last[name]) for name in first)


def test_folders_are_complete(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(TINYLM, source)
    (source / "chat_template.jinja").write_text("{{ messages }}")
    report = _export(tmp_path / "out", "gptq", Scheme(4, 64, True), source, max_shard_bytes=1_000_000)
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    shards = sorted(name for name in names if name.endswith(".safetensors"))
    assert len(shards) > 2
    assert {"chat_template.jinja", "tokenizer.json", "generation_config.json", "quantize_config.json"} < names
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == report.total_bytes
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"] == json.loads((out / "quantize_config.json").read_text())
    assert config["hidden_size"] == 256
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_inspect_and_compare_say_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _export(tmp_path / "out", "gptq_v2", Scheme(3, 128, False))
    inspect_checkpoint(tmp_path / "out", tensors=True, metadata=False, json_output=True)
    facts = {t["name"]: t for t in json.loads(capsys.readouterr().out)["tensors"]}
    found = facts["model.layers.0.mlp.down_proj.weight"]
    assert found["shape"] == [256, 768]
    assert (found["format"], found["group_size"], found["grid"]) == ("GPTQ 3-bit", 128, "asym")
    parts = {name: part for name, part in _weights(tmp_path / "out").items() if "layers.0.mlp.down_proj." in name}
    assert found["bytes"] == sum(part.nbytes for name, part in parts.items() if not name.endswith("g_idx"))
    (made,) = (t for t in gg.compare(TINYLM, tmp_path / "out").tensors if t.name == "blk.0.ffn_down.weight")
    assert made.formats == ("BF16", "GPTQ 3-bit")
    assert made.bits_per_weight == 3 + (16 + 3) / 128


def test_a_head_that_shares_the_embedding_is_ignored(tmp_path: Path) -> None:
    source = tiny_checkpoints.write(CASES["llama"], tmp_path)
    _export(tmp_path / "out", "compressed-tensors", Scheme(4, 32, True), source)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == ["lm_head"]


@pytest.mark.parametrize(
    ("to", "scheme", "text"),
    [
        ("gptq", Scheme(4, 64, True), ""),
        ("gptq", Scheme(3, 64, True), "of symmetric codes it takes those of 4 and 8 bits alone"),
        ("gptq_v2", Scheme(4, 64, False), "--to awq or compressed-tensors"),
        ("awq", Scheme(4, 256, False), "groups of 32, 64 and 128"),
        ("compressed-tensors", Scheme(4, 64, False), ""),
    ],
)
def test_what_servers_do_not_load_is_said(tmp_path: Path, to: Layout, scheme: Scheme, text: str) -> None:
    warnings = _export(tmp_path / "out", to, scheme).warnings
    assert len(warnings) == bool(text)
    assert all(text in warning and "vLLM may not load 42 modules" in warning for warning in warnings)


def test_nothing_is_left_after_a_failure(tmp_path: Path) -> None:
    def stop(_: object) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        _export(tmp_path / "out", "gptq", Scheme(4, 64, True), progress=stop)
    assert not list(tmp_path.iterdir())
    _export(tmp_path / "out", "gptq", Scheme(4, 64, True))
    before = _weights(tmp_path / "out")
    with pytest.raises(gg.FileError, match="exists"):
        _export(tmp_path / "out", "awq", Scheme(4, 64, False))
    with pytest.raises(RuntimeError, match="enough"):
        _export(tmp_path / "out", "awq", Scheme(4, 64, False), overwrite=True, progress=stop)
    after = _weights(tmp_path / "out")
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("to", "scheme", "text"),
    [
        ("awq", Scheme(4, 48, False), "256 inputs do not divide into groups of 48"),
        ("compressed-tensors", Scheme(4, 48, True), "256 inputs do not divide into groups of 48"),
        ("awq", Scheme(8, 64, False), "codes of 4 bits, not 8"),
        ("gptq", Scheme(5, 64, False), "codes of 2, 3, 4, 8 bits, not 5"),
        ("gptq", Scheme(4, 20, False), "groups of 20"),
    ],
)
def test_what_a_layout_cannot_hold(tmp_path: Path, to: Layout, scheme: Scheme, text: str) -> None:
    with pytest.raises((gg.UsageError, gg.UnsupportedError), match=text):
        _export(tmp_path / "out", to, scheme)
    assert not list(tmp_path.iterdir())


def test_codes_that_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(gg.UnsupportedError, match="not quantized yet"):
        _export(tmp_path / "out", "gptq", None, method="keep")
    _export(tmp_path / "five", "compressed-tensors", Scheme(5, 32, True))
    with pytest.raises(gg.UnsupportedError, match="cannot be kept: gptq checkpoints have codes of"):
        _export(tmp_path / "out", "gptq", None, tmp_path / "five", method="keep")
    report = _export(tmp_path / "out", "gptq", None, tmp_path / "five")
    assert all(module.how.startswith("re-quantized: gptq checkpoints") for module in report.modules)
    assert all(module.max_error > 0 for module in report.modules)

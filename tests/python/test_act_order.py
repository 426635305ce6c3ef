"""Inputs in act-order are put together again in GGUF blocks, and the model stays the same function."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import ggquant as gg
import tiny_checkpoints
from ggquant.checkpoint_index import StoredTensor, read_header
from ggquant.export.run import export_checkpoint
from ggquant.export.scheme import Layout, Scheme
from ggquant.overrides import TensorType
from ggquant.packed.check import compare_values
from ggquant.packed.exact import transcode_to_gguf
from ggquant.runtime import open_model
from packed_files import array
from runtime_cases import RUNTIME_CASES

GROUP = 32
_DOWN = re.compile(r"\.(down_proj|w2|c_proj)\.g_idx$")
_OUT = re.compile(r"\.self_attn\.o_proj\.g_idx$")


def _packed(folder: Path, family: str, to: Layout = "gptq", *, symmetric: bool = True, skip: str | None = None) -> Path:
    case = RUNTIME_CASES[family]
    source = tiny_checkpoints.write(case, folder)
    export_checkpoint(source, folder / "packed", to, scheme=Scheme(4, GROUP, symmetric), skip=skip, threads=1)
    return folder / "packed"


def _tensors(folder: Path) -> dict[str, StoredTensor]:
    return {n: t for path in folder.glob("*.safetensors") for n, t in read_header(path).items()}


def _rewrite(tensor: StoredTensor, values: npt.NDArray[np.int32]) -> None:
    with Path(tensor.file).open("r+b") as file:
        file.seek(tensor.offset)
        file.write(values.astype("<i4").tobytes())


def _scatter(folder: Path, names: re.Pattern[str], width: int = 0) -> int:
    """Gives the inputs of modules other groups, as act-order does; within heads of `width` where it is given."""
    found = [(name, tensor) for name, tensor in sorted(_tensors(folder).items()) if names.search(name)]
    for seed, (_, tensor) in enumerate(found):
        groups, rng = array(tensor), np.random.default_rng(seed)
        step = width or groups.size
        for first in range(0, groups.size, step):
            groups[first : first + step] = rng.permutation(groups[first : first + step])
        _rewrite(tensor, groups)
    return len(found)


def _logits(path: Path, pre: str, vocabulary: int) -> npt.NDArray[np.float32]:
    model = open_model(path, pre=pre if path.is_dir() else None, threads=1)
    tokens = np.arange(24, dtype=np.int64).reshape(1, 24) * 7 % vocabulary
    return model.logits(model.forward(tokens))


@pytest.mark.parametrize(
    ("family", "symmetric"),
    [
        ("llama", True), ("llama", False), ("mixtral", True), ("qwen3moe", False), ("gemma2", True),
        ("phi3_plain", True), ("starcoder2", False),
    ],
)  # fmt: skip
def test_feed_forward_networks_take_up_the_permutation(tmp_path: Path, family: str, symmetric: bool) -> None:
    packed = _packed(tmp_path, family, symmetric=symmetric)
    assert _scatter(packed, _DOWN)
    pre = RUNTIME_CASES[family].pre
    target = tmp_path / "out.gguf"
    kinds = transcode_to_gguf(packed, target, pre=pre, threads=1)
    assert all(kind.startswith("exact") for kind in kinds.values())
    # The proof: the same values, and the same model.
    found = {tensor.tensor: tensor for tensor in compare_values(packed, target, pre=pre, threads=1)}
    assert all(tensor.equal or tensor.forms[1] == "Q4_1" for tensor in found.values())
    # Not beside the checkpoint itself, of which a GGUF file cannot say everything.
    plain = gg.convert(packed, tmp_path / "plain.gguf", "F32", pre=pre, threads=1).path
    before, after = (_logits(path, pre, 200) for path in (plain, target))
    # Minima of Q4_1 are rounded, sums of float32 run in another order.
    assert np.abs(before - after).max() <= (2e-5 if symmetric else 5e-3) * np.abs(before).max()
    assert not np.array_equal(before, after)


def test_weights_before_it_may_be_of_any_kind(tmp_path: Path) -> None:
    packed = _packed(tmp_path, "starcoder2", skip="c_fc|attn")
    assert _scatter(packed, _DOWN)
    pre = RUNTIME_CASES["starcoder2"].pre
    report = gg.convert(packed, tmp_path / "out.gguf", "F32", pre=pre, recipe=[TensorType("ffn_down.weight", "Q4_0")])
    assert {t.transcoding for t in report.tensors if "ffn_down.weight" in t.name} == {"exact"}
    plain = gg.convert(packed, tmp_path / "plain.gguf", "F32", pre=pre, threads=1).path
    before, after = (_logits(path, pre, 200) for path in (plain, report.path))
    assert np.abs(before - after).max() <= 2e-5 * np.abs(before).max()


def test_heads_stay_whole(tmp_path: Path) -> None:
    packed = _packed(tmp_path, "llama_f16")
    assert _scatter(packed, _OUT, width=64)
    pre = RUNTIME_CASES["llama_f16"].pre
    # Two heads share their values, and here they are scattered differently.
    with pytest.raises(gg.UnsupportedError, match="spread over its heads"):
        transcode_to_gguf(packed, tmp_path / "out.gguf", pre=pre)
    for name, tensor in _tensors(packed).items():
        if _OUT.search(name):
            heads = array(tensor).reshape(2, 2, 64)
            heads[:, 1] = heads[:, 0] + 2
            _rewrite(tensor, heads.reshape(-1))
    transcode_to_gguf(packed, tmp_path / "out.gguf", pre=pre)
    before, after = (_logits(path, pre, 200) for path in (packed, tmp_path / "out.gguf"))
    assert np.abs(before - after).max() <= 2e-5 * np.abs(before).max()


def test_what_cannot_change_places_is_encoded_anew(tmp_path: Path) -> None:
    packed = _packed(tmp_path, "mistral")
    assert _scatter(packed, re.compile(r"\.g_idx$"))
    report = gg.convert(packed, tmp_path / "out.gguf", "Q4_0", options=gg.Options(pure=True), pre="gpt-2")
    kinds = {t.name.split(".")[2]: t.transcoding or "" for t in report.tensors if t.name.startswith("blk.0.")}
    assert kinds["ffn_down"] == "exact"
    assert "residual stream" in kinds["attn_q"] and "residual stream" in kinds["ffn_up"]
    assert "heads" in kinds["attn_output"]
    with pytest.raises(gg.UnsupportedError, match="residual stream"):
        transcode_to_gguf(packed, tmp_path / "exact.gguf", pre="gpt-2")
    # Encoded in the ordinary way, nothing has to change places.
    options = gg.Options(pure=True, encoder="ordinary")
    ordinary = gg.convert(packed, tmp_path / "ordinary.gguf", "Q4_0", options=options, pre="gpt-2")
    plain, folded = (gg.open(path).tensors["blk.0.ffn_up.weight"] for path in (ordinary.path, report.path))
    rows, others = ([row.tobytes() for row in tensor.rows(0, tensor.shape[0]).data] for tensor in (plain, folded))
    assert set(rows) == set(others)
    assert rows != others


def test_groups_that_are_no_blocks(tmp_path: Path) -> None:
    packed = _packed(tmp_path, "mistral")
    for name, tensor in _tensors(packed).items():
        if _DOWN.search(name):
            groups = array(tensor)
            groups[0] = 1
            _rewrite(tensor, groups)
    with pytest.raises(gg.UnsupportedError, match="other sizes than multiples of 32"):
        transcode_to_gguf(packed, tmp_path / "out.gguf", pre="gpt-2")

"""Checkpoints with something wrong: one clear error each, naming file and tensor."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from family_cases import CASES
from ggquant.errors import CheckpointError, MalformedFileError, UnsupportedError
from ggquant.source_hf import open_checkpoint
from tiny_checkpoints import Shapes, write


def opened(folder: Path) -> None:
    open_checkpoint(folder, "gpt-2")


def with_shapes(change: Callable[[Shapes], None], name: str = "qwen3") -> Any:
    case = CASES[name]

    def shapes(config: dict[str, Any]) -> Shapes:
        found = case.shapes(config)
        change(found)
        return found

    return replace(case, shapes=shapes)


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(CASES["qwen3"], tmp_path)


def test_missing_tensor(tmp_path: Path) -> None:
    case = with_shapes(lambda shapes: shapes.pop("model.layers.1.self_attn.k_norm.weight") and None)
    with pytest.raises(CheckpointError, match=r"missing tensor model\.layers\.1\.self_attn\.k_norm\.weight") as caught:
        opened(write(case, tmp_path))
    assert caught.value.tensor == "model.layers.1.self_attn.k_norm.weight"


def test_missing_expert(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.experts.2.up_proj.weight"
    case = with_shapes(lambda shapes: shapes.pop(name) and None, "qwen3moe")
    with pytest.raises(CheckpointError, match=r"missing tensor.*experts.2.up_proj"):
        opened(write(case, tmp_path))


def test_a_router_that_llama_cpp_would_take_for_another_is_warned_of(tmp_path: Path) -> None:
    folder = write(CASES["qwen3moe"], tmp_path)
    assert not [text for text in open_checkpoint(folder, None).warnings if "norm_topk_prob" in text]
    edit_config(folder, norm_topk_prob=False)
    assert [text for text in open_checkpoint(folder, None).warnings if "norm_topk_prob is false" in text]


def test_extra_tensor(tmp_path: Path) -> None:
    case = with_shapes(lambda shapes: shapes.update({"model.layers.0.self_attn.surprise.weight": (4, 4)}))
    with pytest.raises(CheckpointError, match=r"qwen3 models have no tensor .*surprise"):
        opened(write(case, tmp_path))


def test_wrong_shape(tmp_path: Path) -> None:
    case = with_shapes(lambda shapes: shapes.update({"model.layers.0.mlp.up_proj.weight": (321, 256)}))
    with pytest.raises(
        CheckpointError, match=r"up_proj\.weight has shape \(321, 256\), the config asks for \(320, 256\)"
    ):
        opened(write(case, tmp_path))


def test_missing_shard(tmp_path: Path) -> None:
    folder = write(CASES["llama"], tmp_path)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"missing shard model-00002-of-00002\.safetensors"):
        opened(folder)


def test_index_and_shards_disagree(tmp_path: Path) -> None:
    folder = write(CASES["llama"], tmp_path)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.ghost.weight"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"listed in the index but not in the shards: model\.ghost\.weight"):
        opened(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "c:\\x"])
def test_shard_name_that_leaves_the_folder(tmp_path: Path, name: str) -> None:
    folder = write(CASES["llama"], tmp_path)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = name
    path.write_text(json.dumps(index))
    with pytest.raises(MalformedFileError, match=r"leaves the folder"):
        opened(folder)


def test_unknown_architecture_lists_the_nearest(folder: Path) -> None:
    edit_config(folder, architectures=["Qwen33ForCausalLM"])
    with pytest.raises(UnsupportedError, match=r"'Qwen33ForCausalLM' is not supported.*Qwen3ForCausalLM"):
        opened(folder)


def test_packed_weights(folder: Path) -> None:
    edit_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(UnsupportedError, match="quantized 'bitsandbytes'; GPTQ, AWQ"):
        opened(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\*\.safetensors"):
        opened(folder)


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer found; expected tokenizer.model or tokenizer.json"):
        opened(folder)


def test_token_beyond_the_vocabulary(folder: Path) -> None:
    edit_config(folder, vocab_size=260)
    with pytest.raises(CheckpointError, match=r"vocab|shape"):
        opened(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_hidden_layers", "two"),
        ("num_attention_heads", 0),
        ("rms_norm_eps", "small"),
        ("rope_scaling", [1]),
    ],
)
def test_hyperparameter_of_the_wrong_kind(folder: Path, name: str, value: object) -> None:
    edit_config(folder, **{name: value})
    with pytest.raises(CheckpointError, match=r"config.json") as caught:
        opened(folder)
    assert caught.value.file == str(folder / "config.json")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": ' * 200 + "1" + "}" * 200, "[" * 100_000, "\x00", "1" * 5000])
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_damaged_json(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(MalformedFileError, match=file.replace(".", r"\.")):
        opened(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F33", "shape": [], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [1,1,1,1,1,1,1,1,1,1], "data_offsets": [0, 4]}}',
    ],
)
def test_damaged_safetensors_header(folder: Path, header: bytes) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(MalformedFileError, match=r"model\.safetensors"):
        opened(folder)


@pytest.mark.parametrize("length", [0, 7, 1 << 63, 1 << 32])
def test_safetensors_header_longer_than_the_file(folder: Path, length: int) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(MalformedFileError, match=r"model\.safetensors"):
        opened(folder)


def test_single_file_beside_its_config(folder: Path) -> None:
    model = open_checkpoint(folder / "model.safetensors", "gpt-2")
    assert model.arch == "qwen3"


def test_single_file_of_another_name(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "model.safetensors", folder / "weights.safetensors")
    assert len(open_checkpoint(folder / "weights.safetensors", "gpt-2").tensors) == 25


def test_two_tensors_of_one_name(tmp_path: Path) -> None:
    case = with_shapes(lambda s: s.update({"language_model.model.norm.weight": (256,)}))
    with pytest.raises(CheckpointError, match=r"are the same tensor"):
        opened(write(case, tmp_path))

"""Tokenizer metadata: pre-tokenizer names, special tokens, damaged SentencePiece models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggquant.errors import MalformedFileError, UnsupportedError
from ggquant.metadata import Metadata
from ggquant.tokenizers import protobuf
from ggquant.tokenizers.files import TokenizerFiles
from ggquant.tokenizers.pretokenizer import fingerprint, pretokenizer_name
from ggquant.tokenizers.sentencepiece import read_model
from ggquant.tokenizers.special import write_special
from tiny_tokenizers import byte_level, sentencepiece, wordpiece

TINYLM = Path(__file__).resolve().parents[1] / "data" / "tinylm"

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def files(folder: Path, tokenizer: Callable[[Path], None]) -> TokenizerFiles:
    tokenizer(folder)
    return TokenizerFiles(folder)


def edited(folder: Path, change: Callable[[dict[str, Any]], None], name: str = "tokenizer.json") -> TokenizerFiles:
    byte_level()(folder)
    path = folder / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return TokenizerFiles(folder)


def test_bundled_tokenizer_is_gpt2s_with_a_warning() -> None:
    warnings: list[str] = []
    assert pretokenizer_name(TokenizerFiles(TINYLM), None, warnings) == "gpt-2"
    assert len(warnings) == 1
    assert "--pre" in warnings[0]


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        (LLAMA3, "llama-bpe"),
        (LLAMA3.replace("{1,3}", ""), "qwen2"),
        (LLAMA3.replace(r"\r", "\r").replace(r"\n", "\n"), "llama-bpe"),
        (None, "gpt-2"),
    ],
)
def test_name_derived_from_the_definition(tmp_path: Path, expression: str | None, name: str) -> None:
    warnings: list[str] = []
    assert pretokenizer_name(files(tmp_path, byte_level(splits=expression)), None, warnings) == name
    assert warnings


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update(pre_tokenizer={"type": "Whitespace"}),
        lambda t: t.update(pre_tokenizer=None),
        lambda t: t["pre_tokenizer"].update(add_prefix_space=True),
        lambda t: t.update(normalizer={"type": "Lowercase"}),
        lambda t: t.update(
            pre_tokenizer={
                "type": "Split",
                "pattern": {"Regex": "a"},
                "behavior": "Isolated",
                "invert": False,
            }
        ),
    ],
)
def test_unknown_definition_is_not_guessed(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    tokenizer = edited(tmp_path, change)
    with pytest.raises(UnsupportedError, match="--pre NAME"):
        pretokenizer_name(tokenizer, None, [])
    assert pretokenizer_name(tokenizer, "anything", []) == "anything"


def test_fingerprint_includes_special_tokens(tmp_path: Path) -> None:
    with_prefix = files(tmp_path, byte_level(prefix="<|endoftext|>"))
    (tmp_path / "plain").mkdir()
    without = files(tmp_path / "plain", byte_level())
    assert fingerprint(with_prefix) != fingerprint(without)


def special(tokenizer: TokenizerFiles) -> dict[str, Any]:
    metadata: Metadata = {}
    write_special(tokenizer, metadata, merges=False, warnings=[])
    return {key.removeprefix("tokenizer."): value.value for key, value in metadata.items()}


def test_wordpiece_surrounds_a_text(tmp_path: Path) -> None:
    found = special(files(tmp_path, wordpiece))
    assert found["ggml.add_bos_token"] is True
    assert found["ggml.add_eos_token"] is True
    assert (found["ggml.bos_token_id"], found["ggml.eos_token_id"]) == (2, 3)
    assert found["ggml.normalizer.lowercase"] is True


def test_config_ids_fill_what_the_tokenizer_does_not_say(tmp_path: Path) -> None:
    tokenizer = files(tmp_path, byte_level(config={"eos_token": "<|endoftext|>"}))
    (tmp_path / "config.json").write_text('{"eos_token_id": 1, "pad_token_id": 7, "bos_token_id": [1, 2]}')
    found = special(tokenizer)
    assert found["ggml.eos_token_id"] == 264
    assert found["ggml.padding_token_id"] == 7
    assert "ggml.bos_token_id" not in found


def test_configured_end_becomes_end_of_turn_where_the_template_ends_otherwise(tmp_path: Path) -> None:
    byte_level(specials=("<a>", "<b>"), config={"eos_token": "<a>"})(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    end = {"SpecialToken": {"id": "<b>", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
        "pair": [],
        "special_tokens": {"<b>": {"id": "<b>", "ids": [265], "tokens": ["<b>"]}},
    }
    path.write_text(json.dumps(content))
    found = special(TokenizerFiles(tmp_path))
    assert (found["ggml.eos_token_id"], found["ggml.eot_token_id"]) == (265, 264)
    assert found["ggml.add_eos_token"] is True


def test_chat_template_file_with_windows_lines(tmp_path: Path) -> None:
    tokenizer = files(tmp_path, byte_level())
    (tmp_path / "chat_template.jinja").write_bytes(b"a\r\nb\n")
    assert special(tokenizer)["chat_template"] == "a\nb\n"


@given(st.lists(st.tuples(st.integers(1, 1 << 28), st.one_of(st.integers(0, (1 << 64) - 1), st.binary(max_size=40)))))
def test_protobuf_round_trip(message: list[tuple[int, int | bytes]]) -> None:
    def varint(value: int) -> bytes:
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*out, value])

    data = b""
    for number, value in message:
        if isinstance(value, int):
            data += varint(number << 3) + varint(value)
        else:
            data += varint(number << 3 | 2) + varint(len(value)) + value
    assert list(protobuf.fields(data)) == message


@given(st.data())
def test_damaged_sentencepiece_model_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("spm")
    sentencepiece()(folder)
    path = folder / "tokenizer.model"
    content = bytearray(path.read_bytes())
    cut = data.draw(st.integers(0, len(content)))
    content = content[:cut]
    for _ in range(data.draw(st.integers(0, 3))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        assert read_model(path).pieces
    except MalformedFileError as error:
        assert error.file == str(path)

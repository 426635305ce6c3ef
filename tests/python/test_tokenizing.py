"""Token ids against those of llama.cpp's tokenizer for the same metadata."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ggquant as gg
from ggquant.tokenizing import Tokenizer, load_tokenizer
from tokenizing_cases import SAMPLE, TEXTS, TINYLM, cases, digest, marked

CASES = cases()
RECORDS = Path(__file__).resolve().parents[1] / "data" / "tokenizing.json"


@pytest.fixture(scope="module")
def records() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDS.read_text())
    return found


@pytest.mark.parametrize("name", CASES)
def test_same_ids_as_llama_cpp(name: str, records: dict[str, Any]) -> None:
    tokenizer = Tokenizer(CASES[name])
    assert tokenizer.encode(SAMPLE) == records[name]["sample"]
    assert digest(tokenizer.encode(text, add_special=False) for text in TEXTS) == records[name]["plain"]
    special = tokenizer.special_texts
    ids = (tokenizer.encode(marked(text, special), parse_special=True) for text in TEXTS)
    assert digest(ids) == records[name]["special"]


def test_all_cases_are_recorded(records: dict[str, Any]) -> None:
    assert records.keys() == CASES.keys()


WHOLE = ("bpe gpt-2", "bpe llama-bpe", "bpe tekken", "spm", "gemma4", "rwkv")


@cache
def tokenizer_of(name: str) -> Tokenizer:
    return Tokenizer(CASES[name])


@pytest.mark.parametrize("name", WHOLE)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"])))
@settings(max_examples=60, deadline=None)
def test_what_is_encoded_decodes_to_the_same_text(name: str, text: str) -> None:
    """Vocabularies with all bytes lose nothing; U+2581 is their way of writing a space."""
    if name in ("spm", "gemma4"):
        text = text.replace("\u2581", " ")
    tokenizer = tokenizer_of(name)
    assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text


@pytest.mark.parametrize("name", ["bpe gpt-2", "bpe deepseek-llm", "bpe qwen35"])
def test_a_long_text_has_the_ids_of_its_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long texts are cut before they are encoded; where, must not be seen."""
    tokenizer = Tokenizer(CASES[name])
    text = " ".join(f"{part} and so on" for part in TEXTS)
    monkeypatch.setattr("ggquant.tokenizing.bpe._CUT_AFTER", len(text))
    whole = tokenizer.encode(text)
    monkeypatch.setattr("ggquant.tokenizing.bpe._CUT_AFTER", 10)
    assert tokenizer.encode(text) == whole


def test_the_checkpoint_and_its_gguf_give_the_same_ids(tmp_path: Path) -> None:
    path = gg.convert(TINYLM, tmp_path / "tiny.gguf", "Q8_0").path
    folder, file = load_tokenizer(TINYLM), load_tokenizer(path)
    assert (folder.n_vocab, folder.bos, folder.eos, folder.add_bos) == (file.n_vocab, file.bos, file.eos, file.add_bos)
    for text in TEXTS:
        assert folder.encode(text) == file.encode(text)


def test_the_checkpoint_gives_the_ids_of_its_tokenizer_json() -> None:
    from tokenizers import Tokenizer as Reference

    reference = Reference.from_file(str(TINYLM / "tokenizer.json"))
    tokenizer = load_tokenizer(TINYLM)
    for text in TEXTS:
        expected = reference.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, add_special=False) == expected


def test_control_tokens_are_text_unless_asked_for() -> None:
    tokenizer = Tokenizer(CASES["bpe gpt-2"])
    assert tokenizer.eos in tokenizer.encode("a<|endoftext|>b", parse_special=True)
    assert tokenizer.eos not in tokenizer.encode("a<|endoftext|>b")
    ids = tokenizer.encode("a<|endoftext|>b", parse_special=True)
    assert tokenizer.decode(ids) == "a<|endoftext|>b"
    assert tokenizer.decode(ids, skip_special=True) == "ab"


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"tokenizer.ggml.model": "plamo2"}, gg.UnsupportedError, "kind 'plamo2'"),
        ({"tokenizer.ggml.model": "none"}, gg.MalformedFileError, "no tokenizer"),
        ({"tokenizer.ggml.pre": "newest"}, gg.UnsupportedError, "pre-tokenizer 'newest'"),
        ({"tokenizer.ggml.merges": []}, gg.MalformedFileError, "without merges"),
        ({"tokenizer.ggml.tokens": ["a", "b", "a"]}, gg.MalformedFileError, "'a' is in the vocabulary twice"),
        ({"tokenizer.ggml.token_type": [1]}, gg.MalformedFileError, "token_type"),
    ],
)
def test_what_cannot_be_used_is_one_clear_error(change: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Tokenizer(CASES["bpe gpt-2"] | change)


def test_damaged_charsmaps_are_refused() -> None:
    metadata = CASES["t5"]
    charsmap = metadata["tokenizer.ggml.precompiled_charsmap"]
    for damaged in (charsmap[:3], charsmap[:50], [*charsmap[:4], *([-1] * 64)]):
        with pytest.raises(gg.MalformedFileError, match="charsmap"):
            Tokenizer(metadata | {"tokenizer.ggml.precompiled_charsmap": damaged}).encode("\u00e9")


def test_ids_and_texts_that_are_none_are_refused() -> None:
    tokenizer = Tokenizer(CASES["spm"])
    with pytest.raises(gg.UsageError, match="surrogates"):
        tokenizer.encode("\ud800")
    with pytest.raises(gg.UsageError, match="not in the vocabulary"):
        tokenizer.decode([tokenizer.n_vocab])

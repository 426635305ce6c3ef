"""Patterns mean what they mean to std::regex, or are errors."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggquant.ecmascript import PatternError, ecmascript_to_python
from ggquant.overrides import (
    Options,
    OverrideError,
    TensorType,
    parse_prune_layers,
    parse_tensor_type,
    parse_tensor_type_file,
)


def found(pattern: str, text: str) -> bool:
    return re.search(ecmascript_to_python(pattern), text.encode()) is not None


# The answers of libstdc++'s std::regex_search, with the pattern lower-cased first.
@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("attn_v", "blk.0.attn_v.weight", True),
        ("ATTN_V", "blk.0.attn_v.weight", True),
        ("attn_v", "BLK.0.ATTN_V", False),
        (r"\.(\d*[13579])\.attn_k", "blk.13.attn_k.weight", True),
        (r"\.(\d*[13579])\.attn_k", "blk.12.attn_k.weight", False),
        (r"\D", "abc", False),  # lower-cased to \d
        (r"\D", "5", True),
        (r"^blk\.(?:0|3)\b", "blk.3.x", True),
        (r"^blk\.(?:0|3)\b", "blk.31.x", False),
        ("a]", "a]", True),
        ("}", "}", True),
        ("[a-]", "-", True),
        ("[-a]", "-", True),
        (r"\a", "a", True),  # no special meaning: the letter itself
        (r"\z", "z", True),
        (r"\e\_", "e_", True),
        (".", "\n", False),
        (".", "\r", False),
        ("a.b", "a\tb", True),
        ("b$", "b\n", False),
        ("a{2}", "aa", True),
        ("a{2,3}?b", "aab", True),
        ("é", "bé", True),
        (".é", "é", False),
        ("..", "é", True),  # a character of two bytes
        (r"\x62\x6c", "blk", True),
        ("[[:digit:]_]", "x_y", True),
        ("[&&a]", "&", True),
        ("[(|)]", "|", True),
        (r"[\]\\]", "]", True),
        ("ffn_(up|down)", "blk.0.ffn_gate.weight", False),
        ("(?=ffn)ffn_(?!up)", "ffn_down", True),
        ("(?=ffn)ffn_(?!up)", "ffn_up", False),
        ("a||b", "", True),
    ],
)
def test_meanings(pattern: str, text: str, expected: bool) -> None:
    assert found(pattern, text) is expected


@pytest.mark.parametrize(
    "pattern",
    [
        "*a", "a**", "a++", "a{,3}", "a{3,1}", "a{", "{2}", "(", "a)", "(?i)a", "(?<n>a)", "(?p<n>a)",
        "^*", r"\b+", "(?=a)*", "[", "[a", "[]", "[^]", "[z-a]", "[a-c-e]", r"[a-\d]", r"[\d-x]",
        "[[:nope:]]", "[[.a.]]", r"a\1", r"(a)\1", r"\u0041", r"\ca", "\\", "[\\", r"\x4", "a{2}{3}",
        "a{99999}", "+", "|?", "(*a)", "a\0b",
    ],
)  # fmt: skip
def test_what_cannot_be_carried_over_is_an_error(pattern: str) -> None:
    with pytest.raises(PatternError):
        ecmascript_to_python(pattern)
    if "=" not in pattern:
        with pytest.raises(OverrideError):
            TensorType(pattern, "Q8_0")


@given(st.text(max_size=30))
def test_any_text_is_translated_or_refused(pattern: str) -> None:
    try:
        translated = ecmascript_to_python(pattern)
    except PatternError:
        return
    re.compile(translated)


# Tensor names are UTF-8, which has no lone surrogates.
PLAIN = st.characters(min_codepoint=32, codec="utf-8", exclude_characters="ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@given(st.text(PLAIN, max_size=20))
def test_escaped_text_finds_itself(text: str) -> None:
    escaped = "".join(c if c.isalnum() or c in " _" or ord(c) > 127 else "\\" + c for c in text)
    assert found(escaped, f"x{text}y")


def test_tensor_types_are_read() -> None:
    assert parse_tensor_type("ATTN_V=q8_0") == TensorType("ATTN_V", "Q8_0")
    assert str(parse_tensor_type("a.*=iq4_nl")) == "a.*=IQ4_NL"
    assert [t.format for t in parse_tensor_type_file("a=q4_0\n  b=F16\tc=Q6_K\n")] == ["Q4_0", "F16", "Q6_K"]


@pytest.mark.parametrize("text", ["attn_v", "=q8_0", "attn_v=", "attn_v=q9_0", "attn_v=q8_k", "attn_v=i32", "(=q8_0"])
def test_malformed_tensor_types_are_errors(text: str) -> None:
    with pytest.raises(OverrideError, match="--tensor-type"):
        parse_tensor_type(text)


def test_layers_to_prune_are_read() -> None:
    assert parse_prune_layers("5,3,3,10") == (3, 5, 10)
    for text in ("", "a", "1,,2", "-1", "1;2", "²"):
        with pytest.raises(OverrideError):
            parse_prune_layers(text)
    with pytest.raises(OverrideError):
        Options(prune_layers=[-1])

"""Which of llama.cpp's pre-tokenizers a BPE tokenizer uses."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

from ggquant.errors import UnsupportedError
from ggquant.tokenizers.files import TokenizerFiles
from ggquant.tokenizers.fingerprints import FINGERPRINTS, PROBE

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s"
    r"|%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_TEKKEN = _CASED % ("", "", r"\p{N}")
_GPT4O = _CASED % (_CONTRACTION, _CONTRACTION, r"\p{N}{1,3}")
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_SEED_CODER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}"
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"

_BY_DEFINITION: dict[tuple[str, ...], str] = {
    (_GPT2,): "gpt-2",
    (r"\p{N}", _GPT2): "smollm",
    (_LLAMA3,): "llama-bpe",
    (_QWEN2,): "qwen2",
    (_QWEN35,): "qwen35",
    (_TEKKEN,): "tekken",
    (_GPT4O,): "gpt-4o",
    (r"\p{N}{1,3}", _CJK, _DEEPSEEK3): "deepseek-v3",
    (
        "[\r\n]",
        r"\s?\p{L}+",
        r"\s?\p{P}+",
        "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
        r"\p{N}",
    ): "deepseek-coder",
    (_BAILING,): "bailingmoe",
    (_SEED_CODER,): "seed-coder",
    (" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+",): "bloom",
}
"""Splits in the order in which they are made, and a name under which llama.cpp makes the same ones."""

_HARMLESS_NORMALIZERS = ("NFC", "NFKC", "NFD", "NFKD")


def pretokenizer_name(files: TokenizerFiles, override: str | None, warnings: list[str]) -> str:
    """The value of `tokenizer.ggml.pre`.

    Args:
        files: the folder's tokenizer files.
        override: the user's choice, taken as it is.
        warnings: gets a line where the name had to be derived.

    Raises:
        UnsupportedError: the fingerprint is unknown and the definition matches nothing known.
    """
    if override is not None:
        return override
    digest = fingerprint(files)
    if digest in FINGERPRINTS:
        return FINGERPRINTS[digest]
    definition = splits(files.definition.get("pre_tokenizer"))
    name = None
    if definition is not None and _is_harmless(files.definition.get("normalizer")):
        name = _BY_DEFINITION.get(tuple(_canonical(pattern) for pattern in definition))
    if name is None:
        raise UnsupportedError(
            f"{files.json_path}: llama.cpp has no name for this pre-tokenizer (fingerprint {digest}); "
            "if you know one that splits text alike, give it with --pre NAME",
            file=str(files.json_path),
        )
    warnings.append(
        f"{files.json_path}: unknown tokenizer; its pre-tokenizer splits as llama.cpp's '{name}' does, "
        "so that name is used (--pre NAME overrides)"
    )
    return name


def fingerprint(files: TokenizerFiles) -> str:
    """SHA-256 of the printed token ids of the probe text, special tokens included."""
    ids = files.engine.encode(PROBE, add_special_tokens=True).ids
    return sha256(str(ids).encode()).hexdigest()


def splits(pre_tokenizer: Any) -> list[str] | None:
    """The regular expressions by which a pre-tokenizer splits, in order; None where it does anything else."""
    if not isinstance(pre_tokenizer, dict):
        return None
    kind = pre_tokenizer.get("type")
    if kind == "Sequence":
        parts = pre_tokenizer.get("pretokenizers")
        if not isinstance(parts, list):
            return None
        found: list[str] = []
        for part in parts:
            inner = splits(part)
            if inner is None:
                return None
            found += inner
        return found
    if kind == "ByteLevel":
        if pre_tokenizer.get("add_prefix_space"):
            return None
        return [_GPT2] if pre_tokenizer.get("use_regex", True) else []
    if kind == "Digits":
        return [r"\p{N}" if pre_tokenizer.get("individual_digits") else r"\p{N}+"]
    if kind == "Split":
        pattern = pre_tokenizer.get("pattern")
        expression = pattern.get("Regex") if isinstance(pattern, dict) else None
        # Isolated, and Removed with invert, both keep exactly the matches as pieces.
        style = (pre_tokenizer.get("behavior"), bool(pre_tokenizer.get("invert")))
        if isinstance(expression, str) and style in (("Isolated", False), ("Removed", True)):
            return [expression]
    return None


_CONTRACTIONS = re.compile(r"\(\?:'\[sS\]\|'\[tT\]\|'\[rR\]\[eE\]\|'\[vV\]\[eE\]\|'\[mM\]\|'\[lL\]\[lL\]\|'\[dD\]\)")


def _canonical(expression: str) -> str:
    """One spelling for expressions that differ only in how they say it."""
    spelled = expression.replace("\r", "\\r").replace("\n", "\\n") if len(expression) > 6 else expression
    spelled = _CONTRACTIONS.sub("(?i:'s|'t|'re|'ve|'m|'ll|'d)", spelled)
    return spelled.replace("(?i:'s|'t|'re|'ve|'m|'d|'ll)", "(?i:'s|'t|'re|'ve|'m|'ll|'d)")


def _is_harmless(normalizer: Any) -> bool:
    """Whether a normalizer only composes characters, which llama.cpp leaves to the caller."""
    if normalizer is None:
        return True
    if not isinstance(normalizer, dict):
        return False
    if normalizer.get("type") == "Sequence" and isinstance(normalizer.get("normalizers"), list):
        return all(_is_harmless(inner) for inner in normalizer["normalizers"])
    return normalizer.get("type") in _HARMLESS_NORMALIZERS

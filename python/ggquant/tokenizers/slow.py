"""Folders with the files of a slow tokenizer only: vocab.json with merges.txt, or vocab.txt.

What tokenizer.json would say is put together from them as transformers does when it loads such a folder: normalizer and
pre-tokenizer follow from the tokenizer's class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ggquant.bounded_json import MAX_TOKENIZER_BYTES, read_object, read_text
from ggquant.errors import MalformedFileError, UnsupportedError

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_QWEN2_SPLIT = {
    "type": "Split",
    "pattern": {
        "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    },
    "behavior": "Isolated",
    "invert": False,
}
_BYTE_LEVEL: dict[str, dict[str, Any]] = {
    "GPT2Tokenizer": {"pre_tokenizer": _BYTES},
    "Qwen2Tokenizer": {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_QWEN2_SPLIT, _BYTES | {"use_regex": False}]},
    },
}
_CLASS_OF_MODEL = {"gpt2": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer", "bert": "BertTokenizer"}
_SPECIAL = {
    "GPT2Tokenizer": ("<|endoftext|>",),
    "Qwen2Tokenizer": ("<|endoftext|>",),
    "BertTokenizer": ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"),
}
"""Tokens that each class takes for special where no file names others."""


def assemble(folder: Path, config: dict[str, Any], model_config: dict[str, Any]) -> dict[str, Any]:
    """The content of a tokenizer.json for a folder without one; empty where the files are not there.

    Args:
        folder: the checkpoint's.
        config: tokenizer_config.json.
        model_config: config.json.

    Raises:
        MalformedFileError: a file breaks its format.
        UnsupportedError: a class of tokenizer whose pre-tokenizer is not known.
    """
    pairs, lines = folder / "vocab.json", folder / "vocab.txt"
    if pairs.is_file() and (folder / "merges.txt").is_file():
        vocab = read_object(pairs, MAX_TOKENIZER_BYTES)
        name = _class(config, model_config, pairs, _BYTE_LEVEL)
        model = {"type": "BPE", "vocab": vocab, "merges": merge_rules(folder / "merges.txt")}
        return _BYTE_LEVEL[name] | {"model": model, "added_tokens": _special(vocab, config, folder, name)}
    if lines.is_file():
        words = read_text(lines, MAX_TOKENIZER_BYTES).split("\n")
        vocab = {word.rstrip("\r"): index for index, word in enumerate(words[:-1] if not words[-1] else words)}
        name = _class(config, model_config, lines, ("BertTokenizer",))
        return _wordpiece(vocab, config, _special(vocab, config, folder, name))
    return {}


def merge_rules(path: Path) -> list[str]:
    """The rules of a merges.txt; lines that are none are passed over."""
    lines = read_text(path, MAX_TOKENIZER_BYTES).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if lines[0].strip().startswith("#"):
        lines = lines[1:]
    pairs = [line.split(None, 3) for line in lines]
    return [f"{pair[0]} {pair[1]}" for pair in pairs if len(pair) == 2]


def _class(config: dict[str, Any], model_config: dict[str, Any], path: Path, known: Any) -> str:
    given = config.get("tokenizer_class") or _CLASS_OF_MODEL.get(str(model_config.get("model_type")), "")
    name = str(given).removesuffix("Fast")
    if name not in known:
        raise UnsupportedError(
            f"{path.parent}: a folder with {path.name} and no tokenizer.json, and {name or 'no'} tokenizer class; "
            f"known are {', '.join(known)}. Save the tokenizer with transformers, which writes a tokenizer.json",
            file=str(path),
        )
    return name


def _special(vocab: dict[str, Any], config: dict[str, Any], folder: Path, name: str) -> list[dict[str, Any]]:
    """Special tokens that the vocabulary holds, and added ones that it does not."""
    path = folder / "special_tokens_map.json"
    named = read_object(path) if path.is_file() else {}
    texts = list(_SPECIAL[name])
    for source in (named, config):
        for key, value in source.items():
            listed = value if isinstance(value, list) else [value]
            if key.endswith("_token") or key in ("additional_special_tokens", "extra_special_tokens"):
                texts += [t["content"] if isinstance(t, dict) and "content" in t else t for t in listed]
    added = folder / "added_tokens.json"
    more = read_object(added) if added.is_file() else {}
    ids = {**vocab, **more}
    found = []
    for text in dict.fromkeys([*(t for t in texts if isinstance(t, str)), *more]):
        if text in ids:
            if type(ids[text]) is not int:
                raise MalformedFileError(f"{added}: {text!r} has no id", file=str(added))
            special = text in texts
            found.append({"id": ids[text], "content": text, "special": special, "normalized": not special,
                          "single_word": False, "lstrip": False, "rstrip": False})  # fmt: skip
    return found


def _wordpiece(vocab: dict[str, int], config: dict[str, Any], added: list[dict[str, Any]]) -> dict[str, Any]:
    def text(kind: str, default: str) -> str:
        value = config.get(f"{kind}_token")
        value = value.get("content") if isinstance(value, dict) else value
        return value if isinstance(value, str) else default

    cls, sep = text("cls", "[CLS]"), text("sep", "[SEP]")
    part = {"Sequence": {"id": "A", "type_id": 0}}
    around = [{"SpecialToken": {"id": cls, "type_id": 0}}, part, {"SpecialToken": {"id": sep, "type_id": 0}}]
    return {
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
            "strip_accents": config.get("strip_accents"),
            "lowercase": config.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": around,
            "pair": around,
            "special_tokens": {t: {"id": t, "ids": [vocab.get(t, 0)], "tokens": [t]} for t in (cls, sep)},
        },
        "model": {
            "type": "WordPiece",
            "unk_token": text("unk", "[UNK]"),
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }

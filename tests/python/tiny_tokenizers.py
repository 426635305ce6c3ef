"""Tokenizer files for tiny checkpoints: byte-level BPE, SentencePiece, its tokenizer.json, WordPiece."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_CHARACTERS = {b: chr(b) for b in _VISIBLE} | {
    b: chr(0x100 + i) for i, b in enumerate(b for b in range(256) if b not in _VISIBLE)
}
MERGES = [
    ("t", "h"),
    ("th", "e"),
    ("\u0120", "the"),
    ("i", "n"),
    ("in", "g"),
    ("e", "r"),
    ("o", "n"),
    ("a", "t"),
]
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"


def byte_level(
    *,
    specials: tuple[str, ...] = ("<|endoftext|>",),
    plain: tuple[str, ...] = (),
    config: dict[str, Any] | None = None,
    pair_merges: bool = False,
    prefix: str | None = None,
    splits: str | None = None,
) -> Callable[[Path], None]:
    """Byte-level BPE with a few merges; `specials` and `plain` are added tokens after the vocabulary."""

    def write(folder: Path) -> None:
        vocab = {c: i for i, c in enumerate(BYTE_CHARACTERS[b] for b in range(256))}
        for left, right in MERGES:
            vocab[left + right] = len(vocab)
        added = [_added(len(vocab) + i, text, text in specials) for i, text in enumerate((*specials, *plain))]
        byte = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": splits is None,
        }
        split = {"type": "Split", "pattern": {"Regex": splits}, "behavior": "Isolated", "invert": False}
        post: dict[str, Any] = byte | {"use_regex": True}
        if prefix is not None:
            token = {"SpecialToken": {"id": prefix, "type_id": 0}}
            ids = [entry["id"] for entry in added if entry["content"] == prefix]
            post = {
                "type": "TemplateProcessing",
                "single": [token, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [
                    token,
                    {"Sequence": {"id": "A", "type_id": 0}},
                    token,
                    {"Sequence": {"id": "B", "type_id": 1}},
                ],
                "special_tokens": {prefix: {"id": prefix, "ids": ids, "tokens": [prefix]}},
            }
        _write_json(
            folder,
            added,
            pre_tokenizer=byte if splits is None else {"type": "Sequence", "pretokenizers": [split, byte]},
            post_processor=post,
            decoder=byte | {"use_regex": True},
            model={
                "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                "vocab": vocab,
                "merges": [list(m) if pair_merges else " ".join(m) for m in MERGES],
            },
        )  # fmt: skip
        _write_config(folder, config or {"bos_token": specials[0], "eos_token": specials[0]})

    return write


def _pieces() -> list[tuple[str, float, int]]:
    special = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    user = [("<start_of_turn>", 0.0, 4)]
    bytes_ = [(f"<0x{b:02X}>", 0.0, 6) for b in range(256)]
    words = ["\u2581the", "\u2581of", "ing", "er", "\u2581", "e", "t", "a", "o", "n", "\u00e9", "\u4e2d"]
    return [*special, *user, *bytes_, *((w, -float(i) - 0.25, 1) for i, w in enumerate(words))]


def sentencepiece(
    *,
    added: dict[int, tuple[str, bool]] | None = None,
    added_json: dict[str, int] | None = None,
    tokenizer_json: bool = False,
    config: dict[str, Any] | None = None,
) -> Callable[[Path], None]:
    """A `tokenizer.model`; `added` goes to added_tokens_decoder and, where asked for, to tokenizer.json."""

    def write(folder: Path) -> None:
        sentencepiece_file(folder / "tokenizer.model", _pieces())
        decoder = {str(i): {"content": t, "special": s, "normalized": False} for i, (t, s) in (added or {}).items()}
        base = {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "tokenizer_class": "LlamaTokenizer",
        }
        _write_config(folder, base | ({"added_tokens_decoder": decoder} if decoder else {}) | (config or {}))
        if added_json is not None:
            (folder / "added_tokens.json").write_text(json.dumps(added_json))
        if tokenizer_json:
            extra = [_added(i, text, special) for i, (text, special) in (added or {}).items()]
            _write_spm_json(folder, extra)

    return write


def sentencepiece_file(
    path: Path, pieces: list[tuple[str, float, int]], *, unigram: bool = False, charsmap: bytes = b""
) -> None:
    """Writes a SentencePiece model with pieces of (text, score, kind)."""
    body = b"".join(_field(1, _piece(*piece)) for piece in pieces)
    trainer = _varint_field(3, 1 if unigram else 2) + _varint_field(35, not unigram)
    normalizer = _field(1, b"identity") + _varint_field(3, 1)
    if charsmap:
        normalizer += _field(2, charsmap)
    path.write_bytes(body + _field(2, trainer) + _field(3, normalizer))


def sentencepiece_json(config: dict[str, Any] | None = None) -> Callable[[Path], None]:
    """A tokenizer.json made from a SentencePiece model, without the model."""

    def write(folder: Path) -> None:
        count = len(_pieces())
        _write_spm_json(folder, [_added(count, "[INST]", True), _added(count + 1, "[TOOL]", False)])
        base = {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "tokenizer_class": "LlamaTokenizer",
        }
        _write_config(folder, base | (config or {}))

    return write


def slow(
    write: Callable[[Path], None], config: dict[str, Any] | None, files: dict[str, str] | None = None
) -> Callable[[Path], None]:
    """The same vocabulary in a slow tokenizer's files, with `config` as tokenizer_config.json."""

    def write_slow(folder: Path) -> None:
        write(folder)
        found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        vocab = found["model"]["vocab"] | {entry["content"]: entry["id"] for entry in found["added_tokens"]}
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
        if found["model"]["type"] == "BPE":
            (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
            rules = "\n".join(["#version: 0.2", *found["model"]["merges"]])
            (folder / "merges.txt").write_text(rules + "\n", encoding="utf-8")
        else:
            words = sorted(vocab, key=vocab.__getitem__)
            (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
        if config is not None:
            _write_config(folder, config)
        for name, text in (files or {}).items():
            (folder / name).write_text(text, encoding="utf-8")

    return write_slow


_UNIGRAM_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_UNIGRAM_CONFIG = {
    "tokenizer_class": "XLMRobertaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>",
    "cls_token": "<s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>",
}  # fmt: skip


def _unigram_words() -> list[str]:
    return ["\u2581", "\u2581the", "\u2581of", "ing", "er", "e", "t", "a", "o", "n", "\u00e9", "\u4e2d", "!"]


def unigram_json(folder: Path) -> None:
    """XLM-RoBERTa's kind of tokenizer.json, with rules for normalization."""
    vocab = [[text, 0.0] for text in _UNIGRAM_SPECIAL]
    vocab += [[word, -1.5 - index] for index, word in enumerate(_unigram_words())]
    vocab.append(["<mask>", 0.0])
    texts = [entry[0] for entry in vocab]
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    begin, end = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    _write_json(
        folder,
        [_added(texts.index(text), text, True) for text in (*_UNIGRAM_SPECIAL, "<mask>")],
        normalizer={
            "type": "Precompiled",
            "precompiled_charsmap": b64encode(charsmap({"\uff11": "1", "\u2026": "..."})).decode(),
        },
        pre_tokenizer={
            "type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True,
        },
        post_processor={
            "type": "TemplateProcessing",
            "single": [begin, first, end],
            "pair": [begin, first, end, end, second, end],
            "special_tokens": {n: {"id": n, "ids": [texts.index(n)], "tokens": [n]} for n in ("<s>", "</s>")},
        },
        decoder={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        model={"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
    )  # fmt: skip
    _write_config(folder, _UNIGRAM_CONFIG)


def unigram_model(folder: Path) -> None:
    """XLM-RoBERTa's `sentencepiece.bpe.model`, where ids are off by one."""
    special = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    words = [(word, -1.5 - index, 1) for index, word in enumerate(_unigram_words())]
    rules = charsmap({"\uff11": "1"})
    sentencepiece_file(folder / "sentencepiece.bpe.model", [*special, *words], unigram=True, charsmap=rules)
    _write_config(folder, _UNIGRAM_CONFIG)


def charsmap(rules: dict[str, str]) -> bytes:
    """Normalization rules in Darts-clone's layout: every node's children lie in 256 units of their own."""
    trie: dict[int, Any] = {}
    texts = b""
    for source, target in rules.items():
        node = trie
        for byte in source.encode():
            node = node.setdefault(byte, {})
        node[-1] = len(texts)
        texts += target.encode() + b"\0"
    units: dict[int, int] = {}
    queue = [(0, 0, trie)]
    blocks = 0
    while queue:
        index, label, node = queue.pop()
        blocks += 1
        base = blocks * 256
        for byte, child in node.items():
            if byte == -1:
                units[base] = 1 << 31 | child
            else:
                queue.append((base ^ byte, byte, child))
        units[index] = (base ^ index) << 10 | (256 if -1 in node else 0) | label
    size = (blocks + 1) * 256
    array = struct.pack(f"<{size}I", *(units.get(index, 0) for index in range(size)))
    return struct.pack("<I", len(array)) + array + texts


def wordpiece(folder: Path) -> None:
    """BERT's kind: uncased, with [CLS] and [SEP] around a text."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [
        "the",
        "of",
        "##ing",
        "##er",
        "cat",
        "dog",
        "run",
        "!",
        "?",
        "a",
        "b",
        "c",
        "##a",
        "##b",
        "##c",
        "3",
        "##3",
    ]
    vocab = {word: index for index, word in enumerate([*specials, *words])}
    cls, sep = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]"))
    first, second = ({"Sequence": {"id": name, "type_id": index}} for index, name in enumerate("AB"))
    _write_json(
        folder,
        [_added(vocab[name], name, True) for name in specials],
        normalizer={
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
            "strip_accents": None, "lowercase": True,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor={
            "type": "TemplateProcessing",
            "single": [cls, first, sep],
            "pair": [cls, first, sep, second, sep],
            "special_tokens": {n: {"id": n, "ids": [vocab[n]], "tokens": [n]} for n in ("[CLS]", "[SEP]")},
        },
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        model={
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab,
        },
    )  # fmt: skip
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    _write_config(folder, {f"{k}_token": v for k, v in names.items()} | {"tokenizer_class": "BertTokenizer"})


def _added(index: int, text: str, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": text, **flags, "special": special}


def _write_json(folder: Path, added: list[dict[str, Any]], **parts: Any) -> None:
    base = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None}
    text = json.dumps(base | parts, ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    base = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    text = json.dumps(base | config, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _write_spm_json(folder: Path, extra: list[dict[str, Any]]) -> None:
    vocab = {text: index for index, (text, _, _) in enumerate(_pieces())}
    specials = [_added(index, text, True) for text, index in vocab.items() if text in ("<unk>", "<s>", "</s>")]
    _write_json(
        folder,
        [*specials, *extra],
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        pre_tokenizer=None,
        post_processor=None,
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        model={
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "vocab": vocab, "merges": [],
        },
    )  # fmt: skip


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _piece(text: str, score: float, kind: int) -> bytes:
    data = _field(1, text.encode()) + _varint(2 << 3 | 5) + struct.pack("<f", score)
    return data + (_varint_field(3, kind) if kind != 1 else b"")

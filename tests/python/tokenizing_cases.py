"""Small vocabularies of every kind, made from the bundled model's tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from ggquant.tokenizing.pretokenizers import PRE_TOKENIZERS
from ggquant.tokenizing.text import byte_alphabet
from random_text import random_text
from tiny_tokenizers import charsmap

TINYLM = Path(__file__).resolve().parents[1] / "data" / "tinylm"
TEXTS = [random_text(seed) for seed in range(60)]
SAMPLE = "The House's \u00c9t\u00e9 1234567\n\n  was <s>I'LL camelCase</x>\t\u4f60\u597d \U0001f600.</s>"
SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTES = [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
USER = [("camelCase", USER_DEFINED), ("</x>", USER_DEFINED), ("  ", USER_DEFINED)]
REPLACED = {"\u00e9": "e", "\u2026": "...", "A\u030a": "\u00c5", "\uff11": "1", "\u3000": " ", "\ufeff": "", "\t": " "}
"""What the charsmap of the Unigram vocabulary replaces."""


def marked(text: str, special: list[str]) -> str:
    """`text` with a special token in the middle, another one for each length."""
    middle = len(text) // 2
    return text[:middle] + (special[len(text) % len(special)] if special else "") + text[middle:]


def digest(ids: Iterable[list[int]]) -> str:
    return sha256(json.dumps(list(ids)).encode()).hexdigest()


def cases() -> dict[str, dict[str, Any]]:
    """Metadata by name. Of pre-tokenizers that are the same but for their name, one is there."""
    names = (*(name for name in PRE_TOKENIZERS if name != "whitespace"), "gpt-2", "llama-bpe", "gpt-4o")
    distinct = {PRE_TOKENIZERS[name]: name for name in names}
    made = {f"bpe {name}": _byte_level(name) for name in sorted(distinct.values())}
    made["bpe incomplete"] = _incomplete()
    made["gemma4"] = _raw_pairs()
    made["spm"] = _pieces("llama", [-float(n) for n in range(len(_words()))])
    made["spm ties"] = _pieces("llama", [-float(n // 40) for n in range(len(_words()))])
    made["spm spaces inside"] = _with_phrases()
    made["spm no prefix"] = made["spm"] | {"tokenizer.ggml.add_space_prefix": False}
    made["bert"] = _wordpiece()
    made["bert cased"] = made["bert"] | {"tokenizer.ggml.normalizer.lowercase": False}
    made["bert accents"] = made["bert"] | {"tokenizer.ggml.normalizer.strip_accents": False}
    made["t5"] = _unigram(merge=True)
    made["t5 spaces"] = _unigram(merge=False)
    made["rwkv"] = _rwkv()
    return made


@cache
def _tokenizer() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((TINYLM / "tokenizer.json").read_text("utf-8"))
    return found


@cache
def _byte_tokens() -> list[str]:
    vocab = _tokenizer()["model"]["vocab"]
    return sorted(vocab, key=vocab.__getitem__)


@cache
def _words() -> list[str]:
    """The bundled model's tokens as text, for vocabularies that are not byte-level."""
    alphabet = byte_alphabet()
    found: dict[str, None] = {}
    for token in _byte_tokens():
        if all(character in alphabet for character in token):
            text = bytes(alphabet[character] for character in token).decode("utf-8", "replace")
            if "\ufffd" not in text and text.isprintable():
                found[text.replace(" ", SPACE)] = None
    more = (SPACE, SPACE * 2, SPACE * 4, "\u4e2d", "\u4f60\u597d", "\u00e9", "\U0001f600")
    return list(dict.fromkeys((*found, *more)))


def _merges() -> list[str]:
    rules = _tokenizer()["model"]["merges"]
    return [rule if isinstance(rule, str) else " ".join(rule) for rule in rules]


def _metadata(model: str, tokens: list[tuple[str, int]], **more: Any) -> dict[str, Any]:
    texts = [text for text, _ in tokens]
    assert len(set(texts)) == len(texts)
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": [kind for _, kind in tokens],
    } | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


def _byte_level(pre: str) -> dict[str, Any]:
    control = [("<|endoftext|>", CONTROL), ("<|im_end|>", CONTROL), ("<|return|>", CONTROL), ("<s>", UNKNOWN)]
    tokens = [(token, NORMAL) for token in _byte_tokens() if token not in dict(control)]
    tokens = [*tokens, *control, *USER, *(entry for entry in BYTES if PRE_TOKENIZERS[pre].raw)]
    end = [text for text, _ in tokens].index("<|endoftext|>")
    return _metadata("gpt2", tokens, pre=pre, merges=_merges(), bos_token_id=end, eos_token_id=end)


def _incomplete() -> dict[str, Any]:
    """Bytes without a token, and merges of and to texts that are none."""
    full = _byte_level("gpt-2")
    lost = {"q", "z", "\u0120", "\u00c3", "the", "\u0120a", "ing"}
    rows = zip(full["tokenizer.ggml.tokens"], full["tokenizer.ggml.token_type"], strict=True)
    kept = [(text, kind) for text, kind in rows if text not in lost]
    return _metadata("gpt2", kept, pre="gpt-2", merges=full["tokenizer.ggml.merges"], bos_token_id=0, eos_token_id=0)


def _raw_pairs() -> dict[str, Any]:
    alphabet = byte_alphabet()

    def text(token: str) -> str:
        data = bytes(alphabet[character] for character in token if character in alphabet)
        return data.decode("utf-8", "replace").replace(" ", SPACE)

    merges = [rule for rule in _merges() if "\ufffd" not in text(rule.replace(" ", "")) and "\u010a" not in rule]
    pairs = [" ".join(text(part) for part in rule.split(" ")) for rule in merges]
    control = [("<pad>", CONTROL), ("<eos>", CONTROL), ("<bos>", CONTROL), ("<unk>", UNKNOWN)]
    taken = {text for text, _ in (*control, *USER)}
    words = [(word, NORMAL) for word in (*_words(), "\n", "\n\n", "\n\n\n") if word not in taken]
    return _metadata("gemma4", [*control, *BYTES, *words, *USER], merges=pairs, bos_token_id=2, eos_token_id=1)


def _pieces(model: str, scores: list[float], more: tuple[str, ...] = ()) -> dict[str, Any]:
    control = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    taken = {text for text, _ in USER}
    words = [(word, score) for word, score in zip(_words(), scores, strict=True) if word not in taken]
    tokens = [*control, *BYTES, *((word, NORMAL) for word, _ in words), *((word, NORMAL) for word in more), *USER]
    flat = [0.0] * (len(control) + len(BYTES))
    scored = [*flat, *(score for _, score in words), *([-1.0] * len(more)), *([0.0] * len(USER))]
    return _metadata(model, tokens, scores=scored, bos_token_id=1, eos_token_id=2, unknown_token_id=0)


def _with_phrases() -> dict[str, Any]:
    phrases = ("e" + SPACE, "e" + SPACE + "q", "the" + SPACE, "the" + SPACE + "quick", "s" + SPACE)
    return _pieces("llama", [-float(n) for n in range(len(_words()))], phrases)


def _wordpiece() -> dict[str, Any]:
    control = [("[PAD]", CONTROL), ("[UNK]", CONTROL), ("[CLS]", CONTROL), ("[SEP]", CONTROL), ("[MASK]", CONTROL)]
    words = dict.fromkeys((SPACE + w.replace(SPACE, "") for w in _words()), None) | dict.fromkeys(_words(), None)
    tokens = [*control, *((w, NORMAL) for w in words if w and w != SPACE)]
    ids = {"padding": 0, "unknown": 1, "bos": 2, "cls": 2, "seperator": 3, "eos": 3, "mask": 4}
    return _metadata("bert", tokens, **{f"{name}_token_id": index for name, index in ids.items()})


def _unigram(*, merge: bool) -> dict[str, Any]:
    count = len(_words())
    base = _pieces("t5", [-2.0 - 8.0 * n / count for n in range(count)])
    rules = list(charsmap(REPLACED))
    return base | {
        "tokenizer.ggml.add_space_prefix": merge,
        "tokenizer.ggml.remove_extra_whitespaces": merge,
        "tokenizer.ggml.precompiled_charsmap": [byte - 256 if byte > 127 else byte for byte in rules],
    }


def _rwkv() -> dict[str, Any]:
    escapes = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\"}
    texts = [escapes.get(chr(b), chr(b) if 0x20 <= b < 0x7F else f"\\x{b:02x}") for b in range(256)]
    words = [word.replace(SPACE, " ").replace("\\", "\\\\") for word in _words()]
    tokens = dict.fromkeys([*texts, *words, "\\n\\n", "\\xe4\\xb8"])
    return _metadata("rwkv", [("<s>", CONTROL), *((text, NORMAL) for text in tokens)])

"""Rebuilds tokenizer files from real vocabularies of llama.cpp's tree, and expects the same metadata back.

    python tests/peers/check_vocabularies.py LLAMA_CPP_TREE [NAME ...]

The vocabularies are the `models/ggml-vocab-*.gguf` files. What a GGUF does not hold (the pre-tokenizer, the
post-processor) is given here, so that the pre-tokenizer's name comes from the fingerprint, as it does for a
real checkpoint. Older files lack keys that converters write today; every key that they have must agree.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "python")]

import ggquant as gg  # noqa: E402
from ggquant.architectures.config import Config  # noqa: E402
from ggquant.architectures.registry import family_of  # noqa: E402
from ggquant.tokenizers.build import vocabulary  # noqa: E402
from tiny_tokenizers import sentencepiece_file  # noqa: E402

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
BYTES_SPLIT = BYTES | {"use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


def split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + TAIL
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + TAIL
QWEN35 = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_LLM = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"\s+$", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+")
DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+")

NFC = {"normalizer": {"type": "NFC"}}
BPE: dict[str, dict[str, Any]] = {
    "gpt-2": {"pre_tokenizer": BYTES_SPLIT},
    "llama-bpe": {"pre_tokenizer": sequence(split(LLAMA3), BYTES), "begin": "<|begin_of_text|>"},
    "qwen2": {"pre_tokenizer": sequence(split(QWEN2), BYTES), **NFC},
    "qwen35": {"pre_tokenizer": sequence(split(QWEN35), BYTES), **NFC},
    "deepseek-llm": {
        "pre_tokenizer": sequence(*map(split, DEEPSEEK_LLM), DIGITS | {"individual_digits": False}, BYTES),
        "begin": "<｜begin▁of▁sentence｜>",  # noqa: RUF001
    },
    "starcoder": {"pre_tokenizer": sequence(DIGITS, BYTES_SPLIT)},
    "refact": {"pre_tokenizer": sequence(DIGITS, BYTES_SPLIT)},
    "command-r": {"pre_tokenizer": sequence(DIGITS, BYTES_SPLIT), "begin": "<BOS_TOKEN>", **NFC},
    "deepseek-coder": {
        "pre_tokenizer": sequence(*map(split, DEEPSEEK_CODER), DIGITS, BYTES),
        "begin": "<｜begin▁of▁sentence｜>",  # noqa: RUF001
    },
    "falcon": {
        "pre_tokenizer": sequence(
            {"type": "Punctuation", "behavior": "Contiguous"},
            BYTES_SPLIT,
            {"type": "Digits", "individual_digits": False},
            split("[0-9][0-9][0-9]"),
        )
    },
    "mpt": {"pre_tokenizer": BYTES_SPLIT, **NFC},
}
SPM = {"llama-spm": "LlamaForCausalLM", "phi-3": "Phi3ForCausalLM"}
LLAMA_PIECES = 32000
WORDPIECE = ("bert-bge",)
OLDER = {
    ("bert-bge", "tokenizer.ggml.pre"),  # two models share the fingerprint; the later name wins today
    ("bert-bge", "tokenizer.ggml.cls_token_id"),  # not written any more
    ("qwen35", "tokenizer.ggml.pre"),  # it has Qwen2's vocabulary, with which the probe's ids are the same
    ("mpt", "tokenizer.ggml.pre"),  # shares its fingerprint with olmo
    ("phi-3", "tokenizer.ggml.token_type"),  # padding is marked as unused today
    ("command-r", "tokenizer.ggml.token_type"),  # tokens that look special have become control tokens
    ("deepseek-coder", "tokenizer.ggml.token_type"),  # likewise
}
"""Where today's converter writes something else than the one that made the file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("names", nargs="*")
    args = parser.parse_intermixed_args()
    failed = False
    for name in args.names or (*BPE, *SPM, *WORDPIECE):
        theirs = read(args.tree / "models" / f"ggml-vocab-{name}.gguf")
        with tempfile.TemporaryDirectory() as scratch:
            ours = rebuilt(name, theirs, Path(scratch))
        expected = {key: v for key, v in theirs.items() if (name, key) not in OLDER and ".chat_" not in key}
        wrong = [key for key, value in expected.items() if ours.get(key) != value]
        failed |= bool(wrong)
        print(name, "differs in " + ", ".join(wrong) if wrong else f"agrees in {len(expected)} keys", flush=True)
        for key in wrong:
            print("   ", key, *first_difference(theirs[key], ours.get(key)))
    sys.exit(failed)


def first_difference(theirs: Any, ours: Any) -> tuple[Any, ...]:
    if not isinstance(theirs, list) or not isinstance(ours, list):
        return theirs, ours
    pairs = enumerate(zip(theirs, ours, strict=False))
    return next(((i, a, b) for i, (a, b) in pairs if a != b), (len(theirs), len(ours)))


def read(path: Path) -> dict[str, Any]:
    metadata = gg.open(path).metadata
    return {key: metadata[key] for key in metadata if key.startswith("tokenizer.")}


def rebuilt(name: str, theirs: dict[str, Any], folder: Path) -> dict[str, Any]:
    tokens, types = theirs["tokenizer.ggml.tokens"], theirs["tokenizer.ggml.token_type"]
    names = {"eos": "eos", "bos": "bos", "unk": "unknown", "pad": "padding", "sep": "seperator", "cls": "cls"}
    ids = {kind: theirs.get(f"tokenizer.ggml.{word}_token_id") for kind, word in names.items()}
    ids["mask"] = theirs.get("tokenizer.ggml.mask_token_id")
    config = {"vocab_size": len(tokens), "type_vocab_size": 2}
    config |= {f"{kind}_token_id": index for kind, index in ids.items() if index is not None}
    (folder / "config.json").write_text(json.dumps(config))
    begin = BPE.get(name, {}).get("begin")
    settings = {} if begin is None else {"bos_token": begin, "add_eos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "T"}))
    architecture = SPM.get(name, "BertModel" if name in WORDPIECE else "GPT2LMHeadModel")
    if name in SPM:
        scores = theirs["tokenizer.ggml.scores"]
        learned = list(zip(tokens, scores, types, strict=True))[:LLAMA_PIECES]
        sentencepiece_file(folder / "tokenizer.model", learned)
        added = {i: t for i, t in enumerate(tokens) if scores[i] == -1000.0 and types[i] in (3, 4)}
        decoder = {str(i): {"content": t, "special": types[i] == 3} for i, t in added.items()}
        flags = {k: theirs.get(f"tokenizer.ggml.{k}") for k in ("add_bos_token", "add_eos_token")}
        settings = {"added_tokens_decoder": decoder, **flags}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "T"}))
    else:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(name, theirs), ensure_ascii=False))
    settings = Config(config, folder / "config.json", architecture)
    metadata = vocabulary(family_of(architecture, name), settings, None, [])
    return {key: list(v.value) if v.type == "ARRAY" else v.value for key, v in metadata.items()}


def unmarked(token: str, kind: int) -> str:
    if kind == 3:
        return token
    return token[1:] if token[0] == "\u2581" else f"##{token}"


def tokenizer_json(name: str, theirs: dict[str, Any]) -> dict[str, Any]:
    tokens, types = theirs["tokenizer.ggml.tokens"], theirs["tokenizer.ggml.token_type"]
    added = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": types[i] == 4,
         "special": types[i] == 3}
        for i, token in enumerate(tokens)
        if types[i] in (3, 4)
    ]  # fmt: skip
    vocab = {token: i for i, token in enumerate(tokens) if types[i] in (1, 6)}
    if name in WORDPIECE:
        vocab = {t if types[i] == 3 else t[1:] if t[0] == "\u2581" else f"##{t}": i for i, t in enumerate(tokens)}
        cls, sep = ({"SpecialToken": {"id": t, "type_id": 0}} for t in ("[CLS]", "[SEP]"))
        part = {"Sequence": {"id": "A", "type_id": 0}}
        return {
            "version": "1.0", "added_tokens": added,
            "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                           "strip_accents": None, "lowercase": True},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {
                "type": "TemplateProcessing", "single": [cls, part, sep], "pair": [cls, part, sep],
                "special_tokens": {t: {"id": t, "ids": [vocab[t]], "tokens": [t]} for t in ("[CLS]", "[SEP]")},
            },
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": vocab},
        }  # fmt: skip
    setup = BPE[name]
    begin = setup.get("begin")
    post = None
    if begin is not None:
        token = {"SpecialToken": {"id": begin, "type_id": 0}}
        post = {
            "type": "TemplateProcessing", "single": [token, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [token, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {begin: {"id": begin, "ids": [tokens.index(begin)], "tokens": [begin]}},
        }  # fmt: skip
    return {
        "version": "1.0", "added_tokens": added, "normalizer": setup.get("normalizer"),
        "pre_tokenizer": setup["pre_tokenizer"], "post_processor": post, "decoder": BYTES,
        "model": {"type": "BPE", "ignore_merges": name == "llama-bpe", "vocab": vocab,
                  "merges": theirs["tokenizer.ggml.merges"]},
    }  # fmt: skip


if __name__ == "__main__":
    main()

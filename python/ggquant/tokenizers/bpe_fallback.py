"""tokenizer.json files made from SentencePiece BPE models: no scores, bytes as `<0x0A>` tokens."""

from __future__ import annotations

import re

from ggquant.architectures.config import Config
from ggquant.metadata import MetaValue
from ggquant.model import MetaDict
from ggquant.tokenizers.files import SPECIAL_KINDS, TokenizerFiles
from ggquant.tokenizers.kinds import TokenType
from ggquant.tokenizers.special import write_special

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SCORE = -1000.0
_LLAMA_DEFAULTS = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
"""What transformers' Llama tokenizers assume where tokenizer_config.json names no token."""


def write_bpe_fallback(
    files: TokenizerFiles, config: Config, metadata: MetaDict, pre: str | None, warnings: list[str]
) -> bool:
    """A BPE vocabulary with byte fallback. False where tokenizer.json is absent or of another kind."""
    if not files.json:
        return False
    decoder = files.json.get("decoder")
    if files.model.get("type") != "BPE" or not files.model.get("byte_fallback"):
        return False
    if not isinstance(decoder, dict) or decoder.get("type") != "Sequence":
        return False
    special = _special_texts(files)
    base = len(files.model_vocab)
    ids = sorted(index for index in files.vocab if index < base or index in files.added)
    texts = [files.vocab[index] for index in ids]
    types = [int(_type(files, index, base, special)) for index in ids]
    metadata["tokenizer.ggml.model"] = MetaValue("STRING", "llama")
    metadata["tokenizer.ggml.pre"] = MetaValue("STRING", "default")
    metadata["tokenizer.ggml.tokens"] = MetaValue("ARRAY", texts, "STRING")
    metadata["tokenizer.ggml.scores"] = MetaValue("ARRAY", [_SCORE] * len(texts), "FLOAT32")
    metadata["tokenizer.ggml.token_type"] = MetaValue("ARRAY", types, "INT32")
    write_special(files, metadata, merges=False, vocabulary_size=len(texts), warnings=warnings)
    return True


def _type(files: TokenizerFiles, index: int, base: int, special: set[str]) -> TokenType:
    text = files.vocab[index]
    if index < base and _BYTE.fullmatch(text):
        return TokenType.BYTE
    if text in special:
        return TokenType.CONTROL
    return TokenType.NORMAL if index < base else TokenType.USER_DEFINED


def _special_texts(files: TokenizerFiles) -> set[str]:
    texts = {files.special_text(kind) for kind in SPECIAL_KINDS}
    if "Llama" in str(files.config.get("tokenizer_class", "")):
        texts |= {text for kind, text in _LLAMA_DEFAULTS.items() if files.special_text(kind) is None}
    more = files.config.get("additional_special_tokens") or files.config.get("extra_special_tokens") or []
    if isinstance(more, list):
        texts |= {m.get("content") if isinstance(m, dict) else m for m in more}
    return {text for text in texts if isinstance(text, str)}

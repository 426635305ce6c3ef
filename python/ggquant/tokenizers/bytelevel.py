"""Vocabularies of tokenizer.json: byte-level BPE and WordPiece differ only in how they are written."""

from __future__ import annotations

from ggquant.architectures.config import Config
from ggquant.errors import CheckpointError
from ggquant.metadata import MetaValue
from ggquant.model import MetaDict
from ggquant.tokenizers.files import AddedToken, TokenizerFiles
from ggquant.tokenizers.kinds import TokenType, looks_special
from ggquant.tokenizers.pretokenizer import pretokenizer_name
from ggquant.tokenizers.special import write_special


def write_bpe(files: TokenizerFiles, config: Config, metadata: MetaDict, pre: str | None, warnings: list[str]) -> bool:
    """Byte-level BPE. False where the folder has neither tokenizer.json nor a slow tokenizer's files."""
    if not files.definition:
        return False
    tokens, types = token_list(files, config)
    metadata["tokenizer.ggml.model"] = MetaValue("STRING", "gpt2")
    metadata["tokenizer.ggml.pre"] = MetaValue("STRING", pretokenizer_name(files, pre, warnings))
    metadata["tokenizer.ggml.tokens"] = MetaValue("ARRAY", tokens, "STRING")
    metadata["tokenizer.ggml.token_type"] = MetaValue("ARRAY", types, "INT32")
    write_special(files, metadata, merges=True, warnings=warnings)
    return True


def write_wordpiece(
    files: TokenizerFiles, config: Config, metadata: MetaDict, pre: str | None, warnings: list[str]
) -> bool:
    """BERT's WordPiece: `##` marks a piece inside a word; GGUF marks the pieces that begin one instead."""
    if not files.definition:
        return False
    tokens, types = token_list(files, config)
    texts = [_begin_marked(text, kind) for text, kind in zip(tokens, types, strict=True)]
    kinds = config.first("type_vocab_size")
    metadata["tokenizer.ggml.token_type_count"] = MetaValue("UINT32", kinds if type(kinds) is int else 1)
    metadata["tokenizer.ggml.model"] = MetaValue("STRING", "bert")
    metadata["tokenizer.ggml.pre"] = MetaValue("STRING", pretokenizer_name(files, pre, warnings))
    metadata["tokenizer.ggml.tokens"] = MetaValue("ARRAY", texts, "STRING")
    metadata["tokenizer.ggml.token_type"] = MetaValue("ARRAY", types, "INT32")
    write_special(files, metadata, merges=False, vocabulary_size=len(texts), warnings=warnings)
    return True


def _begin_marked(text: str, kind: int) -> str:
    if kind == TokenType.CONTROL:
        return text
    return text[2:] if text.startswith("##") else "\u2581" + text


def token_list(files: TokenizerFiles, config: Config) -> tuple[list[str], list[int]]:
    """Texts and types of all ids up to the model's vocabulary size; ids without a token are padding.

    Raises:
        CheckpointError: a token's id is beyond the vocabulary size in config.json.
    """
    vocab = files.vocab
    size = config.first("vocab_size")
    if size is None:
        size = len(vocab)
    if type(size) is not int or not 0 < size <= 1 << 24:
        raise config.wrong("vocab_size", "a number of tokens")
    if max(vocab, default=-1) >= size:
        raise CheckpointError(
            f"{files.json_path}: token id {max(vocab)} is beyond the vocabulary of {size} in config.json",
            file=str(files.json_path),
        )
    tokens: list[str] = []
    types: list[int] = []
    for index in range(size):
        text, kind = vocab.get(index), TokenType.NORMAL
        if text is None:
            text, kind = f"[PAD{index}]", TokenType.UNUSED
        elif index in files.added:
            text, kind = _added(files, files.added[index])
        tokens.append(text)
        types.append(int(kind))
    return tokens, types


def _added(files: TokenizerFiles, token: AddedToken) -> tuple[str, TokenType]:
    text = token.content
    if not token.normalized and token.id < files.engine.get_vocab_size():
        # llama.cpp matches these texts as they stand, so they are stored as the tokenizer gives them back.
        text = files.engine.decode(files.engine.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)
    if token.special or looks_special(text):
        return text, TokenType.CONTROL
    return text.replace("\u2581", " "), TokenType.USER_DEFINED

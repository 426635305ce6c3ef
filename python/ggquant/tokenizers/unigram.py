"""Unigram vocabularies: XLM-RoBERTa's, from `sentencepiece.bpe.model` or a tokenizer.json of that kind."""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import Any

from ggquant.architectures.config import Config
from ggquant.errors import UnsupportedError
from ggquant.metadata import MetaValue
from ggquant.model import MetaDict
from ggquant.tokenizers.files import MAX_VOCABULARY, SPECIAL_KINDS, TokenizerFiles
from ggquant.tokenizers.kinds import TokenType
from ggquant.tokenizers.sentencepiece import KEPT_TYPES, TokenTable, read_model
from ggquant.tokenizers.special import write_special

_BEGINNING = (("<s>", TokenType.CONTROL), ("<pad>", TokenType.CONTROL), ("</s>", TokenType.CONTROL),
              ("<unk>", TokenType.UNKNOWN))  # fmt: skip
"""What stands before the pieces of a fairseq vocabulary, where the model file has three tokens of its own."""
_OWN_BEGINNING = 3
_DEFAULT_NAMES = {
    "bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>",
}  # fmt: skip
_DEFAULT_UNKNOWN = 3


def write_unigram(
    files: TokenizerFiles, config: Config, metadata: MetaDict, pre: str | None, warnings: list[str]
) -> bool:
    """A Unigram vocabulary with its normalization. False where the folder has neither file.

    Raises:
        UnsupportedError: the vocabulary is of another kind.
    """
    if (files.folder / "sentencepiece.bpe.model").is_file():
        table, prefix, merge, charsmap = _from_model(files, config)
    elif files.json:
        table, prefix, merge, charsmap = _from_json(files, config)
    else:
        return False
    table.write(metadata, "t5")
    kinds = config.first("type_vocab_size")
    metadata["tokenizer.ggml.add_space_prefix"] = MetaValue("BOOL", prefix)
    metadata["tokenizer.ggml.token_type_count"] = MetaValue("UINT32", kinds if type(kinds) is int else 1)
    metadata["tokenizer.ggml.remove_extra_whitespaces"] = MetaValue("BOOL", merge)
    if charsmap:
        metadata["tokenizer.ggml.precompiled_charsmap"] = MetaValue("ARRAY", list(charsmap), "UINT8")
    write_special(files, metadata, merges=False, vocabulary_size=len(table), warnings=warnings)
    return True


def _from_model(files: TokenizerFiles, config: Config) -> tuple[TokenTable, bool, bool, bytes]:
    path = files.folder / "sentencepiece.bpe.model"
    model = read_model(path)
    if not model.unigram:
        raise UnsupportedError(f"{path}: a model of BPE kind, where one of Unigram kind is wanted", file=str(path))
    table = TokenTable(_size(config, len(model.pieces)))
    for index, (text, kind) in enumerate(_BEGINNING):
        table.put(index, text, 0.0, kind)
    for index, piece in enumerate(model.pieces[_OWN_BEGINNING:], len(_BEGINNING)):
        kind = piece.kind if piece.kind in KEPT_TYPES else TokenType.NORMAL
        table.put(index, piece.text, piece.score, kind)
    # The table as it was before the pieces moved on by one: its last entry has left, its paddings keep their numbers.
    for index in range(len(model.pieces) + 1, len(table)):
        table.texts[index] = f"[PAD{index - 1}]"
    return table, model.add_dummy_prefix, model.remove_extra_whitespaces, model.charsmap


def _from_json(files: TokenizerFiles, config: Config) -> tuple[TokenTable, bool, bool, bytes]:
    vocab = files.model.get("vocab")
    if files.model.get("type") != "Unigram" or not isinstance(vocab, list):
        kind = files.model.get("type")
        raise UnsupportedError(
            f"{files.json_path}: a vocabulary of kind {kind}, where a Unigram one is wanted", file=str(files.json_path)
        )
    special = _special_texts(files)
    added = {token.content: index for index, token in files.added.items()}
    unknown = added.get(str(_text(files.config.get("unk_token"))), files.model.get("unk_id", _DEFAULT_UNKNOWN))
    table = TokenTable(_size(config, len(vocab)))
    for text, index in files.model_vocab.items():
        score = vocab[index][1]
        if not isinstance(score, (int, float)):
            raise files.malformed(f"the score of {text!r} is not a number")
        kind = TokenType.NORMAL
        if index == unknown:
            kind = TokenType.UNKNOWN
        elif text in special:
            kind = TokenType.CONTROL
        elif text in added:
            kind = TokenType.USER_DEFINED
        table.put(index, text, float(score), kind)
    prefix = files.config.get("add_prefix_space", True)
    merge = files.config.get("clean_up_tokenization_spaces", False)
    return table, bool(prefix), bool(merge), _charsmap(files)


def _size(config: Config, pieces: int) -> int:
    size = config.first("vocab_size") or 0
    if type(size) is not int or not 0 <= size <= MAX_VOCABULARY:
        raise config.wrong("vocab_size", "a number of tokens")
    return max(size, pieces)


def _special_texts(files: TokenizerFiles) -> set[str]:
    texts = {_text(files.config.get(f"{kind}_token")) or _DEFAULT_NAMES[kind] for kind in SPECIAL_KINDS}
    more = files.config.get("additional_special_tokens") or files.config.get("extra_special_tokens") or []
    return texts | {text for text in map(_text, more if isinstance(more, list) else []) if text}


def _text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _charsmap(files: TokenizerFiles) -> bytes:
    """The precompiled rules, wherever in the normalizer they stand."""
    nodes = [files.json.get("normalizer")]
    while nodes:
        node = nodes.pop()
        if not isinstance(node, dict):
            continue
        rules = node.get("precompiled_charsmap")
        if isinstance(rules, str):
            try:
                return b64decode(rules, validate=True)
            except (binascii.Error, ValueError) as error:
                raise files.malformed(f"precompiled_charsmap: {error}") from error
        inner = node.get("normalizers")
        nodes += inner if isinstance(inner, list) else []
    return b""

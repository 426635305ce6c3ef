"""SentencePiece models (`tokenizer.model`), and the vocabularies made from them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from ggquant.architectures.config import Config
from ggquant.bounded_json import MAX_TOKENIZER_BYTES, read_bytes, read_object
from ggquant.errors import MalformedFileError
from ggquant.metadata import MetaValue
from ggquant.model import MetaDict
from ggquant.tokenizers.files import MAX_VOCABULARY, TokenizerFiles
from ggquant.tokenizers.kinds import TokenType, looks_special
from ggquant.tokenizers.protobuf import WireError, fields
from ggquant.tokenizers.special import write_special

KEPT_TYPES = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.UNUSED, TokenType.BYTE)
"""Kinds of pieces that GGUF keeps; all others are normal tokens there."""

_PADDING_SCORE = -10000.0
_ADDED_SCORE = -1000.0


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a SentencePiece model."""

    text: str
    score: float
    kind: TokenType


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """What a model file holds that a GGUF needs."""

    pieces: tuple[Piece, ...]
    unigram: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


def read_model(path: Path) -> SentencePieceModel:
    """Reads a `tokenizer.model`.

    Raises:
        MalformedFileError: not a SentencePiece model.
        FileError: the file cannot be read.
    """
    data = read_bytes(path, MAX_TOKENIZER_BYTES)
    pieces: list[Piece] = []
    unigram = add_prefix = remove_spaces = True
    charsmap = b""
    try:
        for number, value in fields(data):
            if not isinstance(value, bytes):
                continue
            if number == 1:
                pieces.append(_piece(value))
            elif number == 2:
                unigram = next((v for n, v in fields(value) if n == 3), 1) == 1
            elif number == 3:
                for inner, content in fields(value):
                    if inner == 2 and isinstance(content, bytes):
                        charsmap = content
                    elif inner == 3:
                        add_prefix = bool(content)
                    elif inner == 4:
                        remove_spaces = bool(content)
    except (WireError, UnicodeDecodeError, struct.error, ValueError) as error:
        raise MalformedFileError(f"{path}: not a SentencePiece model: {error}", file=str(path)) from error
    if not pieces:
        raise MalformedFileError(f"{path}: not a SentencePiece model: it has no pieces", file=str(path))
    return SentencePieceModel(tuple(pieces), unigram, charsmap, add_prefix, remove_spaces)


def _piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, TokenType.NORMAL
    for number, value in fields(data):
        if number == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif number == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):
            kind = TokenType(value)
    return Piece(text, score, kind)


class TokenTable:
    """Texts, scores and types by id, filled in from several files of which later ones win."""

    def __init__(self, size: int) -> None:
        self.texts = [f"[PAD{index}]" for index in range(size)]
        self.scores = [_PADDING_SCORE] * size
        self.types = [TokenType.UNUSED] * size

    def __len__(self) -> int:
        return len(self.texts)

    def put(self, index: int, text: str, score: float, kind: TokenType) -> bool:
        """Sets one token; False where the id is outside the vocabulary."""
        if index >= len(self.texts):
            return False
        self.texts[index], self.scores[index], self.types[index] = text, score, kind
        return True

    def write(self, metadata: MetaDict, model: str) -> None:
        """Model name, pre-tokenizer and the three lists."""
        metadata["tokenizer.ggml.model"] = MetaValue("STRING", model)
        metadata["tokenizer.ggml.pre"] = MetaValue("STRING", "default")
        metadata["tokenizer.ggml.tokens"] = MetaValue("ARRAY", self.texts, "STRING")
        metadata["tokenizer.ggml.scores"] = MetaValue("ARRAY", self.scores, "FLOAT32")
        metadata["tokenizer.ggml.token_type"] = MetaValue("ARRAY", [int(kind) for kind in self.types], "INT32")


def write_sentencepiece(
    files: TokenizerFiles, config: Config, metadata: MetaDict, pre: str | None, warnings: list[str]
) -> bool:
    """A SentencePiece vocabulary. False where the folder has no tokenizer.model."""
    table = token_table(files, config, warnings)
    if table is None:
        return False
    table.write(metadata, "llama")
    write_special(files, metadata, merges=False, vocabulary_size=len(table), warnings=warnings)
    return True


def token_table(files: TokenizerFiles, config: Config, warnings: list[str]) -> TokenTable | None:
    """All tokens of a folder with a tokenizer.model: its pieces, then what was added to them."""
    table = _pieces(files, config, warnings)
    if table is None:
        return None
    for index, token in files.decoder_entries:
        text = token["content"]
        kind = TokenType.CONTROL if token.get("special") or looks_special(text) else TokenType.USER_DEFINED
        if kind == TokenType.USER_DEFINED:
            text = text.replace("\u2581", " ")
        _put_added(table, index, text, kind, files.config_path, warnings)
    return table


def write_phi3(files: TokenizerFiles, config: Config, metadata: MetaDict, pre: str | None, warnings: list[str]) -> bool:
    """Phi-3's SentencePiece vocabulary: added tokens of tokenizer.json count too, and keep their texts.

    False where there is none; Phi-4 has a byte-level one.
    """
    if files.config.get("tokenizer_class") == "GPT2Tokenizer":
        return False
    table = _pieces(files, config, warnings)
    if table is None:
        return False
    added = [(entry["id"], entry) for entry in files.added_entries]
    for path, entries in ((files.config_path, files.decoder_entries), (files.json_path, added)):
        for index, token in entries:
            kind = TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
            _put_added(table, index, token["content"], kind, path, warnings)
    table.write(metadata, "llama")
    write_special(files, metadata, merges=False, vocabulary_size=len(table), warnings=warnings)
    return True


def _pieces(files: TokenizerFiles, config: Config, warnings: list[str]) -> TokenTable | None:
    path = files.folder / "tokenizer.model"
    if not path.is_file():
        return None
    model = read_model(path)
    size = config.first("vocab_size_per_layer_input", "vocab_size") or len(model.pieces)
    if type(size) is not int or not 0 < size <= MAX_VOCABULARY:
        raise config.wrong("vocab_size", "a number of tokens")
    table = TokenTable(size)
    for index, piece in enumerate(model.pieces):
        kind = piece.kind if piece.kind in KEPT_TYPES else TokenType.NORMAL
        if not table.put(index, piece.text, piece.score, kind):
            warnings.append(f"{path}: pieces from {index} on are beyond the vocabulary of {size} and left out")
            break
    added = files.folder / "added_tokens.json"
    if added.is_file():
        for text, index in read_object(added).items():
            if type(index) is not int or index < 0:
                raise MalformedFileError(f"{added}: {text!r} has no id", file=str(added))
            _put_added(table, index, text, TokenType.USER_DEFINED, added, warnings)
    return table


def _put_added(table: TokenTable, index: int, text: str, kind: TokenType, path: Path, warnings: list[str]) -> None:
    if not table.put(index, text, _ADDED_SCORE, kind):
        warnings.append(f"{path}: token {text!r} has id {index}, beyond the vocabulary of {len(table)}; left out")

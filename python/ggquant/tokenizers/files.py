"""The tokenizer files of a checkpoint folder, read once, with limits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from json import dumps
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggquant.bounded_json import MAX_TOKENIZER_BYTES, read_bytes, read_object
from ggquant.errors import CheckpointError, MalformedFileError
from ggquant.tokenizers.slow import assemble

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_VOCABULARY = 1 << 24
"""More tokens than any model has; a larger id is a damaged or hostile file."""

SPECIAL_KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token outside the learned vocabulary, or one of it that is matched before tokenizing."""

    id: int
    content: str
    special: bool
    normalized: bool


class TokenizerFiles:
    """What a folder says about its tokenizer. Absent files read as empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.json_path = folder / "tokenizer.json"
        self.config_path = folder / "tokenizer_config.json"

    @cached_property
    def json(self) -> dict[str, Any]:
        """tokenizer.json."""
        return read_object(self.json_path, MAX_TOKENIZER_BYTES) if self.json_path.is_file() else {}

    @cached_property
    def definition(self) -> dict[str, Any]:
        """tokenizer.json, or what it would say, put together from a slow tokenizer's files."""
        return self.json or assemble(self.folder, self.config, self.model_config)

    @cached_property
    def config(self) -> dict[str, Any]:
        """tokenizer_config.json."""
        return read_object(self.config_path, MAX_TOKENIZER_BYTES) if self.config_path.is_file() else {}

    @cached_property
    def model_config(self) -> dict[str, Any]:
        """config.json as it stands in the folder, without defaults."""
        path = self.folder / "config.json"
        return read_object(path) if path.is_file() else {}

    @property
    def model(self) -> dict[str, Any]:
        """The model section of tokenizer.json."""
        model = self.definition.get("model")
        if not isinstance(model, dict):
            raise self.malformed("no 'model' object")
        return model

    @cached_property
    def model_vocab(self) -> dict[str, int]:
        """Learned tokens and their ids."""
        vocab = self.model.get("vocab")
        if isinstance(vocab, list):  # Unigram: [token, score] in the order of ids
            if not all(isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) for p in vocab):
                raise self.malformed("'model.vocab' is not a list of tokens and scores")
            return {pair[0]: index for index, pair in enumerate(vocab)}
        if not isinstance(vocab, dict) or not all(_is_id(n) for n in vocab.values()):
            raise self.malformed("'model.vocab' is not an object of tokens and ids")
        return vocab

    @cached_property
    def added(self) -> dict[int, AddedToken]:
        """Added tokens by id: those of tokenizer.json, then those that only tokenizer_config.json names."""
        tokens: dict[int, AddedToken] = {}
        for entry in self.added_entries:
            token = AddedToken(entry["id"], entry["content"], *_flags(entry))
            known = self.model_vocab.get(token.content, token.id)
            if known != token.id:
                raise self.malformed(f"added token {token.content!r} has id {token.id}, but {known} in the vocabulary")
            tokens[token.id] = token
        known_texts = self.model_vocab.keys() | {token.content for token in tokens.values()}
        next_id = max([*self.model_vocab.values(), *tokens], default=-1) + 1
        listed = [(token["content"], *_flags(token)) for _, token in sorted(self.decoder_entries, key=itemgetter(0))]
        for content, special, normalized in (*listed, *((text, True, False) for text in self._configured_tokens())):
            if content not in known_texts:
                tokens[next_id] = AddedToken(next_id, content, special, normalized)
                known_texts.add(content)
                next_id += 1
        return tokens

    @cached_property
    def added_entries(self) -> list[dict[str, Any]]:
        """The `added_tokens` of the definition, checked."""
        entries = self.definition.get("added_tokens") or []
        if not isinstance(entries, list) or not all(
            isinstance(e, dict) and _is_id(e.get("id")) and isinstance(e.get("content"), str) for e in entries
        ):
            raise self.malformed("'added_tokens' is not a list of tokens with ids")
        return entries

    @cached_property
    def decoder_entries(self) -> list[tuple[int, dict[str, Any]]]:
        """The `added_tokens_decoder` of tokenizer_config.json, checked, as it stands there."""
        decoder = self.config.get("added_tokens_decoder") or {}
        path = self.config_path
        if not isinstance(decoder, dict):
            raise MalformedFileError(f"{path}: added_tokens_decoder is not an object", file=str(path))
        for key, token in decoder.items():
            if not key.isdecimal() or not isinstance(token, dict) or not isinstance(token.get("content"), str):
                raise MalformedFileError(f"{path}: added_tokens_decoder has no text for {key!r}", file=str(path))
        return [(int(key), token) for key, token in decoder.items()]

    @cached_property
    def vocab(self) -> dict[int, str]:
        """Every token by id."""
        tokens = {index: text for text, index in self.model_vocab.items()}
        return tokens | {index: token.content for index, token in self.added.items()}

    @cached_property
    def engine(self) -> Tokenizer:
        """The tokenizer itself, to encode with."""
        from tokenizers import Tokenizer

        try:
            if self.json:
                tokenizer = Tokenizer.from_str(read_bytes(self.json_path, MAX_TOKENIZER_BYTES).decode("utf-8"))
            else:
                tokenizer = Tokenizer.from_str(dumps({"version": "1.0", **self.definition}))
        except Exception as error:  # the library raises bare Exception
            raise self.malformed(f"not a tokenizer that the tokenizers library reads: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def special_text(self, kind: str) -> str | None:
        """The text that tokenizer_config.json gives for a kind of special token, such as "bos"."""
        entry = self.config.get(f"{kind}_token")
        content = entry.get("content") if isinstance(entry, dict) else entry
        return content if isinstance(content, str) else None

    def malformed(self, reason: str) -> MalformedFileError:
        """An error about tokenizer.json."""
        return MalformedFileError(f"{self.json_path}: {reason}", file=str(self.json_path))

    def missing(self, wanted: str) -> CheckpointError:
        """An error about a tokenizer file that is not there."""
        return CheckpointError(f"{self.folder}: no tokenizer found; expected {wanted}", file=str(self.folder))

    def _configured_tokens(self) -> list[str]:
        named = [self.special_text(kind) for kind in SPECIAL_KINDS]
        more = self.config.get("additional_special_tokens") or self.config.get("extra_special_tokens") or []
        if isinstance(more, list):
            named += [m.get("content") if isinstance(m, dict) else m for m in more]
        return [text for text in named if isinstance(text, str) and text]


def _flags(entry: dict[str, Any]) -> tuple[bool, bool]:
    special = bool(entry.get("special", False))
    return special, bool(entry.get("normalized", not special))


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_VOCABULARY

"""Text to token ids and back, as llama.cpp does it with the same metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Protocol

from ggquant.errors import UsageError
from ggquant.tokenizing.bpe import BytePairs
from ggquant.tokenizing.pieces import ScoredPieces
from ggquant.tokenizing.rwkv import LongestBytes
from ggquant.tokenizing.text import byte_alphabet, unescaped_rwkv
from ggquant.tokenizing.unigram import Unigram
from ggquant.tokenizing.vocabulary import SPACE, Kind, read_vocabulary
from ggquant.tokenizing.wordpiece import WordPieces

_SPLITTING = Kind.CONTROL | Kind.USER_DEFINED | Kind.UNKNOWN
_ASCII_SPACE = " \t\n\v\f\r"


class Encoder(Protocol):
    """Text between special tokens to ids."""

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Ids of `text`, or of as much of it as gives at least `limit` of them."""


_ENCODERS: dict[str, type[Any]] = {
    "llama": ScoredPieces,
    "gpt2": BytePairs,
    "gemma4": BytePairs,
    "whitespace": BytePairs,
    "bert": WordPieces,
    "t5": Unigram,
    "rwkv": LongestBytes,
}


class Tokenizer:
    """A model's tokenizer.

    Attributes:
        n_vocab: number of tokens.
        bos, eos, eot, sep, unk, pad: ids of the special tokens, None where there is none.
        ends: ids that end a text.
        add_bos, add_eos: whether `encode` puts these tokens around a text.
    """

    def __init__(self, metadata: Mapping[str, Any], path: str = "metadata") -> None:
        """From the `tokenizer.*` keys of a GGUF file.

        Args:
            metadata: plain values by key; `general.name` and `general.architecture` are looked at too.
            path: what errors call the file.

        Raises:
            MalformedFileError: no tokenizer, or one that contradicts itself.
            UnsupportedError: a kind of tokenizer or a pre-tokenizer that is not known.
        """
        vocabulary = read_vocabulary(metadata, path)
        self._vocabulary = vocabulary
        self._encoder: Encoder = _ENCODERS[vocabulary.model](vocabulary)
        self.n_vocab = len(vocabulary.texts)
        self.bos = vocabulary.special.get("bos")
        self.eos = vocabulary.special.get("eos")
        self.eot = vocabulary.special.get("eot")
        self.sep = vocabulary.special.get("sep")
        self.unk = vocabulary.special.get("unk")
        self.pad = vocabulary.special.get("pad")
        self.ends = frozenset(vocabulary.ends)
        self.add_bos = vocabulary.add_bos
        self.add_eos = vocabulary.add_eos

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = False, limit: int | None = None
    ) -> list[int]:
        """Token ids of a text.

        Args:
            text: any text; user-defined tokens in it are always recognized.
            add_special: put BOS, EOS or, for BERT, CLS and SEP around it as the model wants.
            parse_special: recognize control tokens such as `<|im_end|>` in the text, too.
            limit: how many ids are needed: of what gives more, the rest may be left out.

        Raises:
            UsageError: the text has lone surrogates, which no tokenizer can read.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError("the text has lone surrogates; decode it with errors='replace'") from None
        vocabulary = self._vocabulary
        before, after = self._around() if add_special else ([], [])
        ids = list(before)
        after_special = True
        for piece in self._split(text, parse_special):
            if limit is not None and len(ids) >= limit:
                break
            if isinstance(piece, int):
                ids.append(piece)
                after_special = True
            else:
                prefixed = vocabulary.model == "llama" and vocabulary.space_prefix and after_special
                left = None if limit is None else limit - len(ids)
                ids += self._encoder.encode(f" {piece}" if prefixed else piece, left)
                after_special = False
        return ids + after

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of some tokens; bytes that are not UTF-8 become U+FFFD.

        Args:
            ids: token ids.
            skip_special: leave control and unknown tokens out.
        """
        return self.decode_bytes(ids, skip_special=skip_special).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = False) -> bytes:
        """The bytes of some tokens; they may begin or end within a character.

        The space that SentencePiece models put before a text is taken away from the first token.

        Raises:
            UsageError: an id that is not in the vocabulary.
        """
        kinds = self._vocabulary.kinds
        listed = list(ids)
        for index in listed:
            if not 0 <= index < self.n_vocab:
                raise UsageError(f"token id {index} is not in the vocabulary of {self.n_vocab}")
        first = int(bool(listed) and listed[0] == self.bos and self.add_bos)
        parts = [
            b"" if skip_special and kinds[index] & (Kind.CONTROL | Kind.UNKNOWN) else self._bytes[index]
            for index in listed
        ]
        if self._vocabulary.space_prefix and len(parts) > first and parts[first].startswith(b" "):
            parts[first] = parts[first][1:]
        return b"".join(parts)

    @property
    def special_texts(self) -> list[str]:
        """Texts that `encode` recognizes as one token, the longest first; control tokens only with `parse_special`."""
        return [text for text, _ in self._special]

    def __repr__(self) -> str:
        return f"Tokenizer({self._vocabulary.model!r}, {self.n_vocab} tokens)"

    def _around(self) -> tuple[list[int], list[int]]:
        if self._vocabulary.model == "bert":
            return [i for i in (self.bos,) if i is not None], [i for i in (self.sep,) if i is not None]
        if self._vocabulary.model == "rwkv":
            return [], []
        begin = [self.bos] if self.add_bos and self.bos is not None else []
        end = [self.eos] if self.add_eos and self.eos is not None else []
        return begin, end

    @cached_property
    def _special(self) -> list[tuple[str, int]]:
        """Tokens that texts are cut at, the longest first."""
        rows = zip(self._vocabulary.texts, self._vocabulary.kinds, strict=True)
        found = [(text, index) for index, (text, kind) in enumerate(rows) if kind & _SPLITTING]
        return sorted(found, key=lambda entry: -len(entry[0].encode("utf-8", "surrogateescape")))

    def _split(self, text: str, parse_special: bool) -> list[str | int]:
        """The text cut at special tokens: each of them in turn, longest first, in whatever is still text."""
        pieces: list[str | int] = [text] if text else []
        kinds = self._vocabulary.kinds
        for token, index in self._special:
            kind = kinds[index]
            if (not parse_special and kind & (Kind.CONTROL | Kind.UNKNOWN)) or token not in text:
                continue
            cut: list[str | int] = []
            for piece in pieces:
                if isinstance(piece, int) or token not in piece:
                    cut.append(piece)
                else:
                    cut += _cut(piece, token, index, kind)
            pieces = cut
        return pieces

    @cached_property
    def _bytes(self) -> list[bytes]:
        """What each token stands for."""
        vocabulary = self._vocabulary
        if vocabulary.model == "rwkv":
            return [unescaped_rwkv(text) for text in vocabulary.texts]
        alphabet = {} if vocabulary.pre.raw or vocabulary.model not in ("gpt2", "whitespace") else byte_alphabet()
        return [_meaning(t, k, alphabet) for t, k in zip(vocabulary.texts, vocabulary.kinds, strict=True)]


def _meaning(text: str, kind: Kind, alphabet: Mapping[str, int]) -> bytes:
    if not kind & _SPLITTING:
        if kind & Kind.BYTE:
            return bytes([int(text[3:5], 16)]) if len(text) == 6 and text.startswith("<0x") else text.encode()
        if not kind & Kind.NORMAL:
            return b""
        if not alphabet:
            text = text.replace(SPACE, " ")
        elif all(character in alphabet for character in text):
            return bytes(alphabet[character] for character in text)
    return text.encode("utf-8", "surrogateescape")


def _cut(piece: str, token: str, index: int, kind: Kind) -> list[str | int]:
    parts = piece.split(token)
    made: list[str | int] = []
    for number, part in enumerate(parts):
        if number:
            made.append(index)
            part = part.lstrip(_ASCII_SPACE) if kind & Kind.RSTRIP else part
        if number < len(parts) - 1 and kind & Kind.LSTRIP:
            part = part.rstrip(_ASCII_SPACE)
        if part:
            made.append(part)
    return made

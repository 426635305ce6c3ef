"""Byte pair encoding, by a `tokenizers.Tokenizer` that is set up to do what llama.cpp does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ggquant.errors import MalformedFileError
from ggquant.tokenizing.characters import lowercase, whitespace
from ggquant.tokenizing.patterns import explicit
from ggquant.tokenizing.pretokenizers import EXPRESSIONS
from ggquant.tokenizing.vocabulary import SPACE, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NEWLINES = re.compile(r"\n+|[^\n]+")
_CUT = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])")
"""Where all expressions but those of `_UNCUT` begin a new piece, whatever stands before and after."""
_UNCUT = frozenset({"newlines", "superbpe", "exaone-moe", "whitespace"})
_CUT_AFTER = 1 << 14
_BATCH = 32
_SMALL_BATCH = 4
_PLACEHOLDER = "\uf8ff"


class BytePairs:
    """Text without special tokens to ids, for models gpt2, gemma4 and whitespace.

    Characters that the vocabulary lacks take part in no merge and are left out, as are bytes without a token.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._model = vocabulary.model
        self._ids = vocabulary.ids
        self._raw = vocabulary.pre.raw
        self._lines = vocabulary.gemma
        self._cuttable = vocabulary.pre.expressions not in _UNCUT
        self._replaced: dict[int, list[int]] = {}
        by_default = vocabulary.metadata.get("tokenizer.ggml.pre") != "whitespace"
        self._lowercase = bool(vocabulary.metadata.get("tokenizer.ggml.normalizer.lowercase", by_default))
        self._engine = self._build(vocabulary)

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Ids of `text`; where it is cut anyway, no more parts of it than hold `limit` ids."""
        if self._model == "whitespace":
            return [index for word in self._words(text) for index in self._ids_of(word)]
        if self._raw:
            text = text.replace(" ", SPACE)
        if not self._lines:
            return self._ids_of(text, limit)
        # A run of line ends that is a token is one at once, whatever the merges would make of it.
        ids: list[int] = []
        for piece in _NEWLINES.findall(text):
            whole = self._ids.get(piece) if piece[0] == "\n" else None
            ids += self._ids_of(piece) if whole is None else [whole]
        return ids

    def _words(self, text: str) -> Iterator[str]:
        space = whitespace()
        table = lowercase() if self._lowercase else {}
        yield from "".join(" " if ord(c) in space else c for c in text.translate(table)).split(" ")

    def _ids_of(self, text: str, limit: int | None = None) -> list[int]:
        ids: list[int] = []
        parts = self._cut(text)
        batch = _BATCH if limit is None else _SMALL_BATCH
        for start in range(0, len(parts), batch):
            if limit is not None and len(ids) >= limit:
                break
            for part in self._engine.encode_batch(parts[start : start + batch], add_special_tokens=False):
                ids += part.ids
        if not self._replaced or self._replaced.keys().isdisjoint(ids):
            return ids
        return [one for index in ids for one in self._replaced.get(index, (index,))]

    def _cut(self, text: str) -> list[str]:
        """A long text in parts that are independent of each other: bounded memory, and several threads."""
        parts: list[str] = []
        start = 0
        while self._cuttable and len(text) - start > _CUT_AFTER:
            found = _CUT.search(text, start + _CUT_AFTER)
            if found is None:
                break
            parts.append(text[start : found.end()])
            start = found.end()
        return [*parts, text[start:]]

    def _build(self, vocabulary: Vocabulary) -> Tokenizer:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers

        if not vocabulary.merges and vocabulary.metadata.get("tokenizer.ggml.pre") != "kimi-k2":
            raise MalformedFileError(f"{vocabulary.path}: a BPE tokenizer without merges", file=vocabulary.path)
        ids = {text: index for text, index in vocabulary.ids.items() if _encodable(text)}
        merges = self._merges(vocabulary, ids)
        unknown = _PLACEHOLDER * (1 + max(map(len, ids)))
        ids[unknown] = len(vocabulary.texts) + len(self._replaced)
        self._replaced[ids[unknown]] = []
        text_based = self._raw or vocabulary.pre.expressions == "whitespace"
        engine = Tokenizer(
            models.BPE(
                vocab=ids,
                merges=merges,
                unk_token=unknown,
                fuse_unk=False,
                byte_fallback=text_based,
                ignore_merges=vocabulary.pre.ignore_merges,
            )
        )
        steps: list[pre_tokenizers.PreTokenizer] = [
            pre_tokenizers.Split(Regex(explicit(expression)), "isolated")
            for expression in EXPRESSIONS[vocabulary.pre.expressions]
        ]
        if not text_based:
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        engine.pre_tokenizer = pre_tokenizers.Sequence(steps)
        return engine

    def _merges(self, vocabulary: Vocabulary, ids: dict[str, int]) -> list[tuple[str, str]]:
        """Merges in order, each pair once. Texts that only occur in merges get ids of their own."""
        pairs: dict[tuple[str, str], None] = {}
        for rule in vocabulary.merges:
            text = rule.decode("utf-8", "surrogateescape") if isinstance(rule, bytes) else rule
            at = text.find(" ", 1)
            if at > 0 and at + 1 < len(text) and _encodable(text):
                pairs[text[:at], text[at + 1 :]] = None
        for left, right in pairs:
            for text in (left, right, left + right):
                if text not in ids:
                    index = len(vocabulary.texts) + len(self._replaced)
                    ids[text] = index
                    self._replaced[index] = [vocabulary.ids[c] for c in text if c.isascii() and c in vocabulary.ids]
        return list(pairs)


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True

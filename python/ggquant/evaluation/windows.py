"""The parts of a text on which a model is judged, cut as llama-perplexity cuts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ggquant.calibration import Chunks, cut, read_texts
from ggquant.calibration.chunks import enough
from ggquant.errors import UnsupportedError, UsageError
from ggquant.runtime import RunnableModel, open_model
from ggquant.tokenizing import Tokenizer

if TYPE_CHECKING:
    import os

    from ggquant.product import Activations

    Source = str | os.PathLike[str]

#: Fewer tokens leave nothing to predict in the second half of a chunk.
_SHORTEST = 4


def open_predictor(path: Source, activations: Activations, threads: int | None) -> RunnableModel:
    """Opens a model that predicts tokens.

    Raises:
        UnsupportedError: it makes embeddings instead.
    """
    model = open_model(path, activations=activations, threads=threads)
    if not model.causal:
        raise UnsupportedError(f"{path}: {model.arch} models make embeddings, which have no perplexity", file=str(path))
    return model


def bos_of(model: RunnableModel) -> int | None:
    """The token that takes the place of each chunk's first; None where the model wants none."""
    tokenizer = Tokenizer(model.metadata, model.path)
    return tokenizer.bos if tokenizer.add_bos else None


def text_chunks(model: RunnableModel, text: Source | Sequence[Source], context: int, chunks: int | None) -> Chunks:
    """Text files as chunks of `context` tokens, at most `chunks` of them.

    Raises:
        FileError: a file cannot be read.
        UsageError: the text is empty or shorter than two chunks, or the model's tokenizer is not its own.
    """
    if context < _SHORTEST:
        raise UsageError(f"chunks of {context} tokens leave nothing to predict; use {_SHORTEST} or more")
    paths = list(text) if isinstance(text, Sequence) and not isinstance(text, str) else [text]
    read = read_texts(paths, model.metadata)
    name = ", ".join(read.names)
    if not read.text:
        raise UsageError(f"{name}: the text is empty")
    tokenizer = Tokenizer(model.metadata, model.path)
    encoded = tokenizer.encode(read.text, parse_special=read.has_special, limit=enough(context, chunks))
    ids = np.asarray(encoded, np.int64)
    if int(ids.max(initial=0)) >= model.n_vocab:
        raise UsageError(
            f"{model.path}: the tokenizer gives token {ids.max()}, but the model's vocabulary has {model.n_vocab}; "
            "they do not belong together"
        )
    bos = tokenizer.bos if tokenizer.add_bos else None
    return cut(ids, context, bos=bos, chunks=chunks, name=name)

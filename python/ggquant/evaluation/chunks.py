"""Texts as chunks of tokens, cut as llama-perplexity cuts them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from ggquant.errors import FileError, UsageError

if TYPE_CHECKING:
    import os

    from ggquant.tokenizing import Tokenizer

Tokens: TypeAlias = npt.NDArray[np.int32]
"""[n_chunks, n_ctx] token ids."""

#: Fewer tokens leave nothing to predict in the second half of a chunk.
_SHORTEST = 4


def first_scored(n_ctx: int) -> int:
    """Position in a chunk of the first token whose successor is predicted: the first half is context only."""
    return n_ctx // 2


def chunks_of(tokenizer: Tokenizer, text: str | os.PathLike[str], n_ctx: int, chunks: int | None = None) -> Tokens:
    """A text file as chunks of `n_ctx` tokens; a shorter one at the end is left out.

    Args:
        tokenizer: the model's.
        text: path of a file in UTF-8. One line end at its end does not count.
        n_ctx: tokens in a chunk.
        chunks: at most so many, from the start.

    Raises:
        FileError: the file cannot be read.
        UsageError: the text is too short, or a number cannot be right.
    """
    if n_ctx < _SHORTEST:
        raise UsageError(f"chunks of {n_ctx} tokens leave nothing to predict; use {_SHORTEST} or more")
    if chunks is not None and chunks < 1:
        raise UsageError(f"{chunks} chunks are too few")
    path = Path(text)
    try:
        content = path.read_bytes().decode("utf-8", "replace")
    except OSError as e:
        raise FileError(f"{path}: cannot read the text: {e.strerror}", file=str(path), errno=e.errno) from None
    ids = np.array(tokenizer.encode(content.removesuffix("\n")), np.int32)
    whole = len(ids) // n_ctx
    if whole == 0:
        what = "the text is empty" if not content.strip() else f"the text has only {len(ids)} tokens"
        raise UsageError(
            f"{path}: {what}, and a chunk takes {n_ctx}; give a longer text, or a smaller -c", file=str(path)
        )
    return ids[: whole * n_ctx].reshape(whole, n_ctx)[:chunks]


def as_run(tokens: Tokens, tokenizer: Tokenizer) -> Tokens:
    """The chunks as the model gets them: where it wants BOS, that is the first token of each."""
    if not tokenizer.add_bos or tokenizer.bos is None:
        return tokens
    made = tokens.copy()
    made[:, 0] = tokenizer.bos
    return made

"""A text's tokens, cut into the chunks that a model sees: the same chunks as llama-imatrix makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggquant.errors import UsageError


@dataclass(frozen=True, slots=True)
class Chunks:
    """Chunks of a text.

    Attributes:
        inputs: what the model sees, [n_chunks, n_ctx]; where it wants a BOS token, every chunk begins with one.
        tokens: the text itself, [n_chunks, n_ctx]: what predictions are held against.
    """

    inputs: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.inputs)


def enough(n_ctx: int, chunks: int | None, first: int = 0) -> int | None:
    """Tokens that `cut` needs to see, at most; None for all."""
    return None if chunks is None else (first + max(chunks, 2) + 1) * n_ctx


def cut(
    ids: Sequence[int] | npt.NDArray[np.integer],
    n_ctx: int,
    *,
    bos: int | None,
    chunks: int | None = None,
    first: int = 0,
    name: str = "the text",
) -> Chunks:
    """Cuts tokens into whole chunks; what is left at the end is not used.

    Args:
        ids: the tokens of the text, special ones included.
        n_ctx: tokens in a chunk.
        bos: the token that takes the place of each chunk's first; None where the model wants none.
        chunks: how many to make at most; None for all.
        first: how many to leave out at the beginning.
        name: what errors call the text.

    Raises:
        UsageError: fewer than two chunks' worth of tokens, or arguments that cannot be right.
    """
    if n_ctx < 2:
        raise UsageError(f"chunks of {n_ctx} tokens are too short; use 2 or more")
    if first < 0 or (chunks is not None and chunks < 1):
        raise UsageError("the number of chunks must be positive, and the first one not negative")
    tokens = np.asarray(ids, dtype=np.int64)
    if not tokens.size:
        raise UsageError(f"{name} is empty: there is nothing to calibrate with")
    if first and (first + 2) * n_ctx >= tokens.size:
        raise UsageError(f"{name}: too few of its {tokens.size} tokens are left after {first} chunks of {n_ctx}")
    tokens = tokens[first * n_ctx :]
    if tokens.size < 2 * n_ctx:
        raise UsageError(
            f"{name} has only {tokens.size} tokens, and chunks of {n_ctx} take at least {2 * n_ctx}: "
            "give more text, or a smaller context"
        )
    count = tokens.size // n_ctx if chunks is None else min(chunks, tokens.size // n_ctx)
    whole = tokens[: count * n_ctx].reshape(count, n_ctx)
    inputs = whole.copy()
    if bos is not None:
        inputs[:, 0] = bos
    return Chunks(inputs, whole)

"""Hidden states of many chunks: in memory as far as a limit allows, else in a file without a name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import numpy as np

from ggquant.evaluation.chunks import Tokens
from ggquant.runtime import RunnableModel
from ggquant.runtime.ops import Floats

#: Bytes of hidden states that are kept in memory unless the caller says otherwise.
MEMORY = 1 << 30

#: Tokens that are embedded or run at once.
_TOKENS = 8192


def empty_states(shape: tuple[int, int, int], memory: int) -> Floats:
    """An array of hidden states, mapped to a temporary file if it takes more than `memory` bytes."""
    if 4 * shape[0] * shape[1] * shape[2] <= memory:
        return np.empty(shape, np.float32)
    # The file is gone from its folder at once, and from the disk with the last reference to the array.
    with tempfile.TemporaryFile(prefix="ggquant-") as file:
        return np.memmap(file, np.float32, "w+", shape=shape)


def last_states(
    model: RunnableModel,
    tokens: Tokens,
    *,
    memory: int = MEMORY,
    step: Callable[[str], object] | None = None,
) -> Floats:
    """The hidden states after the last layer, one layer's weights in memory at a time.

    Args:
        model: the model.
        tokens: [n_chunks, n_ctx].
        memory: most bytes of hidden states in memory.
        step: called after the embedding and after each layer, with a few words.

    Returns:
        [n_chunks, n_ctx, hidden], float32.
    """
    h = empty_states((*tokens.shape, model.hidden_size), memory)
    group = max(1, _TOKENS // tokens.shape[1])
    for start in range(0, len(h), group):
        h[start : start + group] = model.embed(tokens[start : start + group])
    for layer in range(model.n_layer):
        if step is not None:
            step(f"layer {layer}")
        model.block(layer)(h, out=h)
    return h

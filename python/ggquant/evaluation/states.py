"""Hidden states of all chunks after the last layer, and what the model predicts from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.runtime import RunnableModel
from ggquant.runtime.block import GROUP_TOKENS, Block
from ggquant.runtime.hidden import KeptStates, allocate
from ggquant.runtime.ops import Floats, negative_log_likelihood


def first_scored(n_ctx: int) -> int:
    """Position in a chunk of the first token whose successor is predicted: the first half is context only."""
    return n_ctx // 2


def scored_tokens(n_ctx: int) -> int:
    """How many tokens of a chunk are scored: the last has no successor."""
    return n_ctx - 1 - first_scored(n_ctx)


def last_states(
    model: RunnableModel,
    inputs: npt.NDArray[np.int64],
    limit: int,
    step: Callable[[int, str], object],
    kept: KeptStates | None = None,
    save: Callable[[], object] | None = None,
) -> Floats:
    """The hidden states after the last layer, one layer's weights in memory at a time.

    Args:
        model: the model.
        inputs: [n_chunks, n_ctx] token ids.
        limit: most bytes of hidden states in memory; more go to a file.
        step: called with the number of tokens that went through a layer, and a few words.
        kept: where states are kept for another run, and where those of an earlier one are.
        save: called after each layer, when `kept` has its states.

    Returns:
        [n_chunks, n_ctx, hidden], float32; only the positions that score the next token mean anything.
    """
    shape = (*inputs.shape, model.hidden_size)
    if kept is None:
        h = room = allocate(shape, limit)
    else:
        h, room = kept.open(shape)
    done = 0 if kept is None else kept.layers
    parts = range(0, len(h), max(1, GROUP_TOKENS // inputs.shape[1]))
    group = parts.step
    if done == 0:
        for start in parts:
            h[start : start + group] = model.embed(inputs[start : start + group])
    step(done * inputs.size, "taken over")
    scored = slice(first_scored(inputs.shape[1]), inputs.shape[1] - 1)
    for layer in range(done, model.n_layer):
        block = model.block(layer)
        wanted = scored if layer == model.n_layer - 1 else slice(None)
        through = _part(block, h, room, group, wanted)
        model.side_by_side(through, parts, partial(_told, step, f"layer {layer}"))
        if kept is not None:
            h, room = kept.advance()
        if save is not None:
            save()
    return h


def _part(block: Block, h: Floats, out: Floats, group: int, wanted: slice) -> Callable[[int], int]:
    """Takes chunks from a given one on through a layer; gives the number of their tokens."""

    def through(start: int) -> int:
        part = h[start : start + group]
        block(part, out=out[start : start + group], wanted=wanted)
        tokens: int = part.shape[0] * part.shape[1]
        return tokens

    return through


def _told(step: Callable[[int, str], object], what: str, tokens: int) -> None:
    step(tokens, what)


def predictions(model: RunnableModel, h: Floats) -> Floats:
    """Logits of the scored tokens of a chunk [n_ctx, hidden], flat."""
    n_ctx = len(h)
    made: Floats = np.ascontiguousarray(model.logits(h[first_scored(n_ctx) : n_ctx - 1])).reshape(-1)
    return made


def token_scores(
    rows: Floats, ids: npt.NDArray[np.int64], base: npt.NDArray[np.uint16] | None, threads: int | None
) -> npt.NDArray[np.float64]:
    """How good the predictions for a chunk are, token by token.

    Args:
        rows: logits of the scored tokens, flat, see `predictions`.
        ids: the chunk's tokens, [n_ctx].
        base: the reference's predictions as `pack_logits` makes them; None without a reference.
        threads: number of threads.

    Returns:
        Negative log-likelihoods [scored]; with a reference what `_native.score_logits` says of each token, [scored, 5],
        with the divergence from the reference in column 2.
    """
    targets = np.ascontiguousarray(ids[first_scored(len(ids)) + 1 :], np.uint32)
    n_vocab = rows.size // len(targets)
    if base is None:
        return negative_log_likelihood(rows.reshape(-1, n_vocab), targets, threads)
    return _native.score_logits(rows, n_vocab, base, targets, threads).reshape(-1, 5)

"""Perplexity, and divergence from a reference: definitions and windows are those of llama-perplexity."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.errors import NonFiniteError, UnsupportedError, UsageError
from ggquant.evaluation.chunks import Tokens, as_run, chunks_of, first_scored
from ggquant.evaluation.logits_file import LogitsFile, LogitsWriter
from ggquant.evaluation.states import MEMORY, last_states
from ggquant.evaluation.summary import Evaluation, summarize, summarize_alone
from ggquant.runtime import RunnableModel, open_model
from ggquant.runtime.ops import Floats, negative_log_likelihood
from ggquant.tokenizing import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    import os

    from ggquant.runtime.model import Activations

    Source = str | os.PathLike[str]
    Report = Callable[[int, int, str], object]

#: Tokens in a chunk unless the caller says otherwise.
CONTEXT = 512


def evaluate(
    model: Source,
    text: Source | None = None,
    *,
    reference: Source | None = None,
    logits: Source | None = None,
    save_logits: Source | None = None,
    context: int | None = None,
    chunks: int | None = None,
    activations: Activations = "float32",
    threads: int | None = None,
    memory: int = MEMORY,
    overwrite: bool = False,
    progress: Report | None = None,
) -> Evaluation:
    """The perplexity of a model on a text, and how far its predictions are from a reference's.

    The text is cut into chunks; each token of the second half of a chunk predicts the next. Weights are read layer by
    layer. Results do not depend on the number of threads.

    Args:
        model: a checkpoint's folder, or a GGUF file of any format.
        text: path of a text file. Not needed with `logits`, which have the tokens; given, it must be the same text.
        reference: the model to compare with, typically the original.
        logits: its predictions in a file, instead.
        save_logits: write the model's own predictions to this file, for later comparisons here or in llama.cpp.
        context: tokens in a chunk, by default 512, or those of `logits`.
        chunks: use only so many from the start.
        activations: "float32", or "int8" to quantize activations as ggml does when it runs a quantized model.
        threads: number of threads, by default one per core.
        memory: most bytes of hidden states in memory; more go to a temporary file.
        overwrite: whether `save_logits` may be replaced.
        progress: called with work done, work in all, and what is being done.

    Raises:
        UsageError: arguments that contradict each other, a text that is too short, a vocabulary that does not match.
        NonFiniteError: the model's predictions are not finite.
        FileError, MalformedFileError, CheckpointError, UnsupportedError: a file that cannot be used, and why.
    """
    started = time.monotonic()
    if reference is not None and logits is not None:
        raise UsageError("compare with a reference model or with its logits, not with both")
    if text is None and logits is None:
        raise UsageError("a text is needed")
    own = _open(model, activations, threads)
    base = _open(reference, "float32", threads) if reference is not None else None
    tokenizer = load_tokenizer(model)
    stored = LogitsFile(logits) if logits is not None else None
    tokens = _tokens(tokenizer, text, stored, context, chunks)
    for other, n_vocab in ((reference, base and base.n_vocab), (logits, stored and stored.n_vocab)):
        if other is not None and n_vocab != own.n_vocab:
            raise UsageError(
                f"{other}: its vocabulary has {n_vocab} tokens, and that of {model} {own.n_vocab}: "
                "these are different models",
                file=str(other),
            )
    steps = _Steps([own, *([base] if base else [])], len(tokens), progress)
    run = as_run(tokens, tokenizer)
    with ExitStack() as stack:
        writer = None
        if save_logits is not None:
            writer = stack.enter_context(LogitsWriter(save_logits, tokens, own.n_vocab, overwrite=overwrite))
        expected = base and last_states(base, run, memory=memory // 2, step=steps.layer)
        states = last_states(own, run, memory=memory // 2 if base else memory, step=steps.layer)
        packed = _packed(base, expected, stored, threads)
        scores = []
        for chunk, (ids, h) in enumerate(zip(tokens, states, strict=True)):
            steps.chunk(chunk)
            rows = _scored(own, h)
            if writer is not None:
                writer.add(_native.pack_logits(rows, own.n_vocab, threads))
            scores.append(_score(rows, ids, next(packed, None), threads))
            if not np.isfinite(scores[-1]).all():
                raise NonFiniteError(f"{model}: its predictions for chunk {chunk} are not finite", file=str(model))
    steps.end()
    summary = summarize_alone if base is None and stored is None else summarize
    seconds = time.monotonic() - started
    return summary(np.concatenate(scores), seconds=seconds, chunks=len(tokens), n_ctx=tokens.shape[1])


def _open(path: Source, activations: Activations, threads: int | None) -> RunnableModel:
    model = open_model(path, activations=activations, threads=threads)
    if not model.causal:
        raise UnsupportedError(f"{path}: {model.arch} models make embeddings, which have no perplexity", file=str(path))
    return model


def _tokens(
    tokenizer: Tokenizer, text: Source | None, stored: LogitsFile | None, context: int | None, chunks: int | None
) -> Tokens:
    if stored is None:
        if text is None:
            raise UsageError("a text is needed")
        return chunks_of(tokenizer, text, CONTEXT if context is None else context, chunks)
    if context is not None and context != stored.n_ctx:
        raise UsageError(f"{stored.path}: made with chunks of {stored.n_ctx} tokens, not of {context}")
    if chunks is not None and chunks < 1:
        raise UsageError(f"{chunks} chunks are too few")
    tokens = stored.tokens[:chunks]
    if text is not None:
        found = chunks_of(tokenizer, text, stored.n_ctx, len(tokens))
        if found.shape != tokens.shape or (found != tokens).any():
            raise UsageError(f"{stored.path}: made from other tokens than {text} has: another text or tokenizer")
    return tokens


def _scored(model: RunnableModel, h: Floats) -> Floats:
    """Logits [tokens * n_vocab] of the scored tokens of a chunk."""
    n_ctx = len(h)
    made: Floats = np.ascontiguousarray(model.logits(h[first_scored(n_ctx) : n_ctx - 1])).reshape(-1)
    return made


def _packed(
    base: RunnableModel | None, states: Floats | None, stored: LogitsFile | None, threads: int | None
) -> Iterator[npt.NDArray[np.uint16]]:
    """The reference's predictions, chunk by chunk."""
    if stored is not None:
        yield from stored.chunks()
    elif base is not None and states is not None:
        for h in states:
            yield _native.pack_logits(_scored(base, h), base.n_vocab, threads)


def _score(
    rows: Floats, ids: npt.NDArray[np.int32], base: npt.NDArray[np.uint16] | None, threads: int | None
) -> npt.NDArray[np.float64]:
    targets = np.ascontiguousarray(ids[first_scored(len(ids)) + 1 :], np.uint32)
    n_vocab = rows.size // len(targets)
    if base is None:
        return negative_log_likelihood(rows.reshape(-1, n_vocab), targets, threads)
    return _native.score_logits(rows, n_vocab, base, targets, threads).reshape(-1, 5)


class _Steps:
    """Counts layers and chunks; a layer over all chunks is much the same work as an output for all of them."""

    def __init__(self, models: list[RunnableModel], chunks: int, report: Report | None) -> None:
        self._layers = sum(model.n_layer for model in models)
        self._chunks, self._report = chunks, report
        # The output matrix is about as large as a few layers.
        self._total = (self._layers + 2 * len(models)) * chunks
        self._done = 0

    def layer(self, what: str) -> None:
        self._tell(what)
        self._done += self._chunks

    def chunk(self, number: int) -> None:
        share = (self._total - self._layers * self._chunks) * number // self._chunks
        self._done = self._layers * self._chunks + share
        self._tell(f"chunk {number + 1} of {self._chunks}")

    def end(self) -> None:
        self._done = self._total
        self._tell("")

    def _tell(self, what: str) -> None:
        if self._report is not None:
            self._report(self._done, self._total, what)

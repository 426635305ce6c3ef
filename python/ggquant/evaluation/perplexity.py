"""Perplexity, and divergence from a reference: definitions and windows are those of llama-perplexity."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ggquant import __version__, _native
from ggquant.calibration import Chunks, cut
from ggquant.errors import NonFiniteError, UsageError
from ggquant.evaluation.logits_file import LogitsFile, writing_logits
from ggquant.evaluation.state import EvaluationState
from ggquant.evaluation.states import last_states, predictions, scored_tokens, token_scores
from ggquant.evaluation.summary import Evaluation, Scores, summarize, summarize_alone
from ggquant.evaluation.windows import bos_of, open_predictor, text_chunks
from ggquant.runtime import RunnableModel
from ggquant.runtime.memory import requirements
from ggquant.runtime.ops import Floats

if TYPE_CHECKING:
    import os

    from ggquant.product import Activations

    Source = str | os.PathLike[str]
    Report = Callable[[int, int, str], object]

#: Tokens in a chunk unless the caller says otherwise.
CONTEXT = 512

#: Layers that take about as long as the output matrix and what is made of its result; for the progress alone.
_OUTPUT_LAYERS = 2


def evaluate(
    model: Source,
    text: Source | Sequence[Source] | None = None,
    *,
    reference: Source | None = None,
    logits: Source | None = None,
    save_logits: Source | None = None,
    context: int | None = None,
    chunks: int | None = None,
    activations: Activations = "float32",
    threads: int | None = None,
    memory: int | None = None,
    overwrite: bool = False,
    resume: Source | None = None,
    progress: Report | None = None,
) -> Evaluation:
    """The perplexity of a model on a text, and how far its predictions are from a reference's.

    The text is cut into chunks; each token of the second half of a chunk predicts the next. Weights are read layer by
    layer. Results do not depend on the number of threads.

    Args:
        model: a checkpoint's folder, or a GGUF file of any format.
        text: a text file, or several, as for `ggquant.calibration`. Not needed with `logits`, which have the tokens;
            given, it must be the same text.
        reference: the model to compare with, typically the original.
        logits: its predictions in a file, instead.
        save_logits: write the model's own predictions to this file, for later comparisons here or in llama.cpp.
        context: tokens in a chunk, by default 512, or those of `logits`.
        chunks: use only so many from the start.
        activations: "float32", or "int8" to quantize activations as ggml does when it runs a quantized model.
        threads: number of threads, by default one per core.
        memory: most bytes of memory to use; hidden states that do not fit go to a temporary file.
        overwrite: whether `save_logits` may be replaced.
        resume: a folder in which to keep what is done, layer by layer and chunk by chunk, until the run ends well. A
            later run with the same arguments goes on from there, with the same result.
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
    own = open_predictor(model, activations, threads)
    base = open_predictor(reference, activations, threads) if reference is not None else None
    stored = LogitsFile(logits) if logits is not None else None
    for other, n_vocab in ((reference, base and base.n_vocab), (logits, stored and stored.n_vocab)):
        if other is not None and n_vocab != own.n_vocab:
            raise UsageError(
                f"{other}: its vocabulary has {n_vocab} tokens, and that of {model} has {own.n_vocab}: "
                "these are different models",
                file=str(other),
            )
    cuts = _chunks(own, text, stored, context, chunks)
    n_chunks, n_ctx = cuts.tokens.shape
    models = [own, *([base] if base else [])]
    limits = [requirements(m, n_chunks, n_ctx, logits=True, budget=memory).hidden_limit // len(models) for m in models]
    steps = _Steps(models, cuts.inputs.size, progress)
    state = None
    if resume is not None:
        state = EvaluationState(Path(resume), _facts(models, cuts, logits, activations))
    kept, save = (state.kept, state.save) if state is not None else ({}, None)
    with ExitStack() as stack:
        writer = None
        if save_logits is not None:
            writer = stack.enter_context(writing_logits(save_logits, cuts.tokens, own.n_vocab, overwrite=overwrite))
        expected = None
        if base is not None:
            expected = last_states(base, cuts.inputs, limits[-1], steps.add, kept.get("base"), save)
        states = last_states(own, cuts.inputs, limits[0], steps.add, kept.get("own"), save)
        packed = _packed(base, expected, stored, threads)
        alone = base is None and stored is None
        # Predictions are not kept: where they are to be written, all chunks are gone through again.
        scores = [] if state is None or writer is not None else state.scores(_score_shape(n_ctx, alone=alone))
        done = len(scores)
        work = _OUTPUT_LAYERS * len(models) * n_ctx
        steps.add(done * work, "taken over")

        def judged(chunk: int) -> tuple[Scores, npt.NDArray[np.uint16] | None]:
            rows = predictions(own, states[chunk])
            written = _native.pack_logits(rows, own.n_vocab, threads) if writer is not None else None
            return token_scores(rows, cuts.tokens[chunk], None if alone else packed(chunk), threads), written

        def take(made: tuple[Scores, npt.NDArray[np.uint16] | None]) -> None:
            score, written = made
            if writer is not None and written is not None:
                writer.add(written)
            if not np.isfinite(score).all():
                where = f"{model}: its predictions for chunk {len(scores)} are not finite"
                raise NonFiniteError(where, file=str(model))
            scores.append(score)
            if state is not None and writer is None:
                state.add_scores(score)
            steps.add(work, f"chunk {len(scores)} of {n_chunks}")

        own.side_by_side(judged, range(done, n_chunks), take)
    if state is not None:
        state.remove()
    summary = summarize_alone if alone else summarize
    return summary(np.concatenate(scores), seconds=time.monotonic() - started, chunks=n_chunks, n_ctx=n_ctx)


def _facts(models: list[RunnableModel], cuts: Chunks, logits: Source | None, activations: Activations) -> object:
    """Everything that the results depend on."""
    files = [sorted({view.file for tensor in model.source.tensors for view in tensor.views}) for model in models]
    files.append([str(logits)] if logits is not None else [])
    stats = [[(file, Path(file).stat().st_size, Path(file).stat().st_mtime_ns) for file in own] for own in files]
    digest = hashlib.sha256(cuts.inputs.tobytes() + cuts.tokens.tobytes()).hexdigest()
    return [__version__, stats, digest, list(cuts.tokens.shape), activations]


def _chunks(
    model: RunnableModel,
    text: Source | Sequence[Source] | None,
    stored: LogitsFile | None,
    context: int | None,
    chunks: int | None,
) -> Chunks:
    if stored is None:
        if text is None:
            raise UsageError("a text is needed")
        return text_chunks(model, text, CONTEXT if context is None else context, chunks)
    if context is not None and context != stored.n_ctx:
        raise UsageError(f"{stored.path}: made with chunks of {stored.n_ctx} tokens, not of {context}")
    made = cut(stored.tokens.reshape(-1), stored.n_ctx, bos=bos_of(model), chunks=chunks, name=str(stored.path))
    if text is not None:
        found = text_chunks(model, text, stored.n_ctx, len(made)).tokens
        if found.shape != made.tokens.shape or (found != made.tokens).any():
            raise UsageError(f"{stored.path}: made from other tokens than {text} has: another text, or tokenizer")
    return made


def _packed(
    base: RunnableModel | None, states: Floats | None, stored: LogitsFile | None, threads: int | None
) -> Callable[[int], npt.NDArray[np.uint16]]:
    """The reference's predictions by number of the chunk."""

    def packed(chunk: int) -> npt.NDArray[np.uint16]:
        if stored is not None:
            return stored.chunk(chunk)
        if base is None or states is None:
            raise UsageError("a reference is needed")
        return _native.pack_logits(predictions(base, states[chunk]), base.n_vocab, threads)

    return packed


def _score_shape(n_ctx: int, *, alone: bool) -> tuple[int, ...]:
    return (scored_tokens(n_ctx),) if alone else (scored_tokens(n_ctx), 5)


class _Steps:
    """Counts tokens times layers."""

    def __init__(self, models: list[RunnableModel], tokens: int, report: Report | None) -> None:
        self._total = sum(model.n_layer + _OUTPUT_LAYERS for model in models) * tokens
        self._done, self._report = 0, report

    def add(self, work: int, what: str) -> None:
        self._done += work
        if self._report is not None:
            self._report(self._done, self._total, what)

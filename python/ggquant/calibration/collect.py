"""Runs calibration text through a model, layer by layer, and keeps the statistics of every weight's input."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, gcd, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ggquant import __version__
from ggquant.calibration.chunks import Chunks, cut, enough
from ggquant.calibration.collector import Collector
from ggquant.calibration.report import Gaps, find_gaps
from ggquant.calibration.state import RunState
from ggquant.calibration.statistics import FileFormat, Statistics, merged, write_statistics
from ggquant.calibration.texts import CalibrationText, default_text, read_texts
from ggquant.errors import FileError, UsageError
from ggquant.runtime import open_model, ops
from ggquant.runtime.block import GROUP_TOKENS, Block
from ggquant.runtime.hidden import allocate
from ggquant.runtime.memory import Requirements, requirements
from ggquant.tokenizing import Tokenizer

if TYPE_CHECKING:
    import os

    from ggquant.product import Activations
    from ggquant.runtime.model import RunnableModel
    from ggquant.runtime.ops import Floats


@dataclass(frozen=True, slots=True)
class CollectProgress:
    """Where a collection stands.

    Attributes:
        layer: number of the layer being run; `n_layer` while logits are computed.
        n_layer: number of layers.
        tokens: tokens of the text that go through them.
        done, total: tokens times layers.
        seconds: time since the start.
    """

    layer: int
    n_layer: int
    tokens: int
    done: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Settings:
    """What is collected, and how. Names are those of llama-imatrix's options.

    Attributes:
        n_ctx: tokens in a chunk.
        chunks: how many chunks at most; None for all.
        first_chunk: how many to leave out at the beginning.
        process_output: whether to cover `output.weight` as well.
        parse_special: whether control tokens are recognized in the text.
        ppl: whether to compute the perplexity.
        output_frequency: write the output every N chunks; 0 for at the end only. The model is then read once for every
            N chunks, since layers come one after another.
        save_frequency: as `output_frequency`, into copies of their own, `<output>.at_<chunks>`.
        all_experts: whether every token counts for every expert. The forward pass stays as it is.
    """

    n_ctx: int = 512
    chunks: int | None = None
    first_chunk: int = 0
    process_output: bool = False
    parse_special: bool = False
    ppl: bool = True
    output_frequency: int = 0
    save_frequency: int = 0
    all_experts: bool = False


@dataclass
class Collection:
    """The result.

    Attributes:
        statistics: the statistics, with those of earlier files if there were any.
        texts: names of the texts.
        tokens: number of tokens that went through the model.
        chunk_perplexities: perplexity after each chunk, over all chunks up to it; empty without `ppl`.
        perplexity, perplexity_error: over all chunks, and its standard error.
        gaps: what the statistics do not cover.
        paths: files that were written.
        seconds: wall time.
    """

    statistics: Statistics
    texts: tuple[str, ...]
    tokens: int
    chunk_perplexities: list[float] = field(default_factory=list)
    perplexity: float | None = None
    perplexity_error: float | None = None
    gaps: Gaps = field(default_factory=Gaps)
    paths: list[Path] = field(default_factory=list)
    seconds: float = 0.0


def collect_imatrix(
    model: str | os.PathLike[str],
    texts: Sequence[str | os.PathLike[str]] = (),
    output: str | os.PathLike[str] | None = None,
    *,
    settings: Settings | None = None,
    in_files: Sequence[str | os.PathLike[str]] = (),
    output_format: FileFormat = "gguf",
    overwrite: bool = False,
    memory: int | None = None,
    resume: bool = False,
    threads: int | None = None,
    activations: Activations = "float32",
    pre: str | None = None,
    progress: Callable[[CollectProgress], None] | None = None,
) -> Collection:
    """Collects an importance matrix, as llama-imatrix does.

    Args:
        model: a Hugging Face folder, or a GGUF file of any format.
        texts: files and folders, see `read_texts`; without any, the text that ships with the package.
        output: the file to write; None to keep the statistics in memory.
        settings: what is collected.
        in_files: earlier importance matrices to add to.
        output_format: "gguf", or "dat" for the older kind.
        overwrite: replace an existing output.
        memory: most bytes of memory to use; hidden states that do not fit go to a file.
        resume: keep what is done when interrupted, and go on from what an earlier run with `resume` left.
        threads: number of threads, by default one per core. It does not change the result.
        activations: "float32", or "int8" to quantize activations as ggml does.
        pre: name of the pre-tokenizer, instead of the one found from the tokenizer. Only for checkpoints.
        progress: called as work goes on.

    Raises:
        UsageError: arguments that cannot be right, too little text, too little memory.
        FileError, CheckpointError, MalformedFileError, UnsupportedError: the model or a file cannot be used.
        ImatrixError: activations that are not finite, or earlier statistics of another model.
    """
    run = Run(
        model, texts, output, settings=settings or Settings(), in_files=in_files, output_format=output_format,
        overwrite=overwrite, memory=memory, threads=threads, activations=activations, pre=pre,
    )  # fmt: skip
    return run.execute(resume=resume, progress=progress)


class Run:
    """A collection that is prepared: everything is read but the weights.

    Attributes:
        model: the model.
        text: the calibration text.
        chunks: its tokens.
        needs: memory and time that the run will take.
        remarks: what the user should know before it starts.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        texts: Sequence[str | os.PathLike[str]],
        output: str | os.PathLike[str] | None,
        *,
        settings: Settings,
        in_files: Sequence[str | os.PathLike[str]] = (),
        output_format: FileFormat = "gguf",
        overwrite: bool = False,
        memory: int | None = None,
        threads: int | None = None,
        activations: Activations = "float32",
        pre: str | None = None,
    ) -> None:
        self._output = Path(output) if output is not None else None
        if self._output is not None and self._output.exists() and not overwrite:
            raise UsageError(f"{self._output}: exists already; --overwrite replaces it", file=str(self._output))
        if self._output is not None and not self._output.parent.is_dir():
            raise FileError(f"{self._output}: the folder does not exist", file=str(self._output))
        if self._output is None and (settings.output_frequency or settings.save_frequency):
            raise UsageError("without an output there is nothing to write every so many chunks")
        self._settings = settings
        self._format = output_format
        self._activations = activations
        self.model: RunnableModel = open_model(model, activations=activations, threads=threads, pre=pre)
        self.text: CalibrationText = read_texts(texts, self.model.metadata) if texts else default_text()
        self.remarks: list[str] = list(self.model.source.warnings)
        self.chunks: Chunks = self._tokenized()
        if settings.ppl and not self.model.causal:
            self._settings = settings = replace(settings, ppl=False)
        self.needs: Requirements = requirements(
            self.model,
            min(len(self.chunks), self._pass_chunks),
            settings.n_ctx,
            logits=self._uses_output,
            budget=memory,
        )
        self._base = merged(in_files, settings.n_ctx)
        self._in_files = [str(file) for file in in_files]

    def execute(self, *, resume: bool = False, progress: Callable[[CollectProgress], None] | None = None) -> Collection:
        """Does the work, see `collect_imatrix`."""
        if resume and self._output is None:
            raise UsageError("only a run that writes a file can be resumed")
        start = time.monotonic()
        state = RunState(self._output, self._facts()) if resume and self._output is not None else None
        statistics = self._base
        losses: list[npt.NDArray[np.float64]] = []
        paths: list[Path] = []
        report = _Reporter(progress, self.model.n_layer, self.chunks.inputs.size, self._uses_output, start)
        for number, first in enumerate(range(0, len(self.chunks), self._pass_chunks)):
            part = slice(first, first + self._pass_chunks)
            chunks = Chunks(self.chunks.inputs[part], self.chunks.tokens[part])
            losses.append(self._run_pass(number, chunks, statistics, state, report))
            if number == 0:
                statistics.datasets += self.text.names
            statistics.count_chunks()
            paths += self._write(statistics, first + len(chunks))
        result = Collection(statistics, self.text.names, int(self.chunks.inputs.size), paths=sorted(set(paths)))
        if self._settings.ppl:
            _add_perplexity(result, np.concatenate(losses))
        result.gaps = find_gaps(statistics, self._weights())
        result.gaps.remarks += self._remarks_after()
        if state is not None:
            state.remove()
        result.seconds = time.monotonic() - start
        return result

    def _run_pass(
        self, number: int, chunks: Chunks, total: Statistics, state: RunState | None, report: _Reporter
    ) -> npt.NDArray[np.float64]:
        """All layers for some chunks; adds to `total`, returns the losses of the predicted tokens by chunk."""
        model, settings = self.model, self._settings
        shapes = {tensor.name: tensor.shape for tensor in model.source.tensors}
        size = chunks.inputs.size
        if state is not None and number < state.passes:
            for layer in range(model.n_layer):
                total.merge(state.layer(number, layer))
                report.skip(size)
            after, losses = state.after(number)
            total.merge(after)
            report.skip(size if self._uses_output else 0)
            return losses
        shape = (*chunks.inputs.shape, model.hidden_size)
        if state is None:
            h = room = allocate(shape, self.needs.hidden_limit, self._spill_folder())
        else:
            h, room = state.hidden(shape)
        done = 0 if state is None else state.layers
        step = max(1, GROUP_TOKENS // settings.n_ctx)
        for layer in range(done):
            total.merge(state.layer(number, layer) if state is not None else Statistics())
            report.skip(size)
        if done == 0:
            for at in range(0, len(chunks), step):
                h[at : at + step] = model.embed(chunks.inputs[at : at + step])
        for layer in range(done, model.n_layer):
            block = model.block(layer)
            if block.experts is not None:
                block.experts.all_for_hook = settings.all_experts
            statistics = self._through(block, h, room, step, shapes, report)
            del block
            total.merge(statistics)
            if state is not None:
                h, room = state.finish_layer(statistics)
        statistics = Statistics(settings.n_ctx)
        losses = np.zeros((len(chunks), 0))
        if self._uses_output:
            losses = self._after_layers(h, chunks, statistics, shapes, report)
        total.merge(statistics)
        if state is not None:
            state.finish_pass(statistics, losses)
        return losses

    def _through(
        self, block: Block, h: Floats, out: Floats, step: int, shapes: Mapping[str, tuple[int, ...]], report: _Reporter
    ) -> Statistics:
        """All chunks through a layer, `step` at a time. What each such part adds is summed in their order."""
        n_ctx = self._settings.n_ctx
        layer = Statistics(n_ctx)

        def run(at: int) -> tuple[Statistics, int]:
            collector = Collector(Statistics(n_ctx), shapes, self.model.threads)
            part = h[at : at + step]
            block(part, collector, out=out[at : at + step])
            return collector.statistics, len(part) * n_ctx

        def add(part: tuple[Statistics, int]) -> None:
            layer.merge(part[0])
            report.advance(block.layer, part[1])

        self.model.side_by_side(run, range(0, len(h), step), add)
        return layer

    def _after_layers(
        self, h: Floats, chunks: Chunks, total: Statistics, shapes: Mapping[str, tuple[int, ...]], report: _Reporter
    ) -> npt.NDArray[np.float64]:
        """Logits, chunk by chunk: losses of the tokens in the second half of each, which have enough context."""
        n_ctx = self._settings.n_ctx
        covers_output = self._settings.process_output and self.model.output_name == "output.weight"
        first = 0 if covers_output else n_ctx // 2
        losses: list[npt.NDArray[np.float64]] = []

        def run(chunk: int) -> tuple[npt.NDArray[np.float64], Statistics]:
            collector = Collector(Statistics(n_ctx), shapes, self.model.threads)
            logits = self.model.logits(h[chunk, first:], collector if covers_output else None)
            predicted = logits[n_ctx // 2 - first : n_ctx - 1 - first]
            targets = chunks.tokens[chunk, n_ctx // 2 + 1 :]
            return ops.negative_log_likelihood(predicted, targets, self.model.threads), collector.statistics

        def add(made: tuple[npt.NDArray[np.float64], Statistics]) -> None:
            losses.append(made[0])
            total.merge(made[1])
            report.advance(self.model.n_layer, n_ctx)

        self.model.side_by_side(run, range(len(h)), add)
        return np.stack(losses)

    @property
    def _uses_output(self) -> bool:
        return self.model.causal and (self._settings.ppl or self._settings.process_output)

    @property
    def _pass_chunks(self) -> int:
        """Chunks that go through the model together: all, unless something is to be written in between."""
        step = gcd(self._settings.output_frequency, self._settings.save_frequency)
        return min(step or len(self.chunks), len(self.chunks))

    def _tokenized(self) -> Chunks:
        settings = self._settings
        tokenizer = Tokenizer(self.model.metadata, self.model.path)
        special = settings.parse_special or self.text.has_special
        limit = enough(settings.n_ctx, settings.chunks, settings.first_chunk)
        encoded = tokenizer.encode(self.text.text, add_special=True, parse_special=special, limit=limit)
        ids = np.asarray(encoded, dtype=np.int64)
        if ids.size and int(ids.max()) >= self.model.n_vocab:
            raise UsageError(
                f"{self.model.path}: the tokenizer gives token {int(ids.max())}, but the model's vocabulary has "
                f"{self.model.n_vocab}; they do not belong together"
            )
        if self.text.has_special and not settings.parse_special:
            self.remarks.append("the text holds conversations, so special tokens in it are recognized")
        bos = tokenizer.bos if tokenizer.add_bos else None
        return cut(
            ids, settings.n_ctx, bos=bos, chunks=settings.chunks, first=settings.first_chunk,
            name=", ".join(self.text.names),
        )  # fmt: skip

    def _write(self, statistics: Statistics, done: int) -> list[Path]:
        """Writes the output, and a copy of it where one is due."""
        if self._output is None:
            return []
        settings, written = self._settings, []
        last = done == len(self.chunks)
        if last or (settings.output_frequency and done % settings.output_frequency == 0):
            write_statistics(self._output, statistics, self._format)
            written.append(self._output)
        if settings.save_frequency and done % settings.save_frequency == 0:
            copy = self._output.with_name(f"{self._output.name}.at_{statistics.chunk_count}")
            write_statistics(copy, statistics, self._format)
            written.append(copy)
        return written

    def _weights(self) -> list[str]:
        """Names of the matrices in layers, all of which should have been met."""
        return [
            tensor.name
            for tensor in self.model.source.tensors
            if tensor.name.startswith("blk.") and len(tensor.shape) >= 2 and tensor.name.endswith(".weight")
        ]

    def _remarks_after(self) -> list[str]:
        remarks = []
        if self._settings.process_output and self.model.output_name != "output.weight":
            remarks.append("the output matrix is the token embedding, for which no statistics are kept")
        extra = self.model.hyper.get("nextn_predict_layers")
        if extra:
            remarks.append(f"the {extra} layers that predict further tokens (MTP) are not run")
        return remarks

    def _spill_folder(self) -> Path | None:
        return self._output.parent if self._output is not None else None

    def _facts(self) -> object:
        """Everything that the results depend on."""
        files = sorted({view.file for tensor in self.model.source.tensors for view in tensor.views})
        stats = [(file, Path(file).stat().st_size, Path(file).stat().st_mtime_ns) for file in files]
        base = [(file, Path(file).stat().st_size, Path(file).stat().st_mtime_ns) for file in self._in_files]
        digest = hashlib.sha256(self.chunks.inputs.tobytes() + self.chunks.tokens.tobytes()).hexdigest()
        settings = {name: getattr(self._settings, name) for name in self._settings.__slots__}
        return [__version__, stats, base, digest, settings, self._activations, self._format]


class _Reporter:
    """Counts tokens times layers, and tells the caller."""

    def __init__(
        self,
        progress: Callable[[CollectProgress], None] | None,
        n_layer: int,
        tokens: int,
        uses_output: bool,
        start: float,
    ) -> None:
        self._progress, self._n_layer, self._start = progress, n_layer, start
        self._tokens = tokens
        self._done, self._total = 0, tokens * (n_layer + uses_output)

    def skip(self, tokens: int) -> None:
        """Counts what an earlier run has done."""
        self._done += tokens

    def advance(self, layer: int, tokens: int) -> None:
        """Counts tokens that have gone through a layer."""
        self._done += tokens
        if self._progress is not None:
            seconds = time.monotonic() - self._start
            self._progress(CollectProgress(layer, self._n_layer, self._tokens, self._done, self._total, seconds))


def _add_perplexity(result: Collection, losses: npt.NDArray[np.float64]) -> None:
    """Perplexities as llama-imatrix prints them: running, and at the end with an error bar."""
    sums, squares = losses.sum(axis=1).cumsum(), (losses**2).sum(axis=1).cumsum()
    counts = losses.shape[1] * np.arange(1, len(losses) + 1)
    if not losses.shape[1]:
        return
    result.chunk_perplexities = [exp(mean) for mean in sums / counts]
    count = int(counts[-1])
    mean = float(sums[-1]) / count
    variance = float(squares[-1]) / count - mean * mean
    result.perplexity = exp(mean)
    result.perplexity_error = sqrt(variance / (count - 1)) * result.perplexity if variance > 0 and count > 1 else None

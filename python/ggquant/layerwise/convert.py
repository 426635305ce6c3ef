"""A model quantized by GPTQ: plan, pass over the layers, ordinary conversion of what came of it."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ggquant import __version__, pipeline
from ggquant.calibration import CalibrationText, cut, default_text, read_texts
from ggquant.errors import FileError, NonFiniteError, UnsupportedError, UsageError
from ggquant.imatrix import Imatrix
from ggquant.layerwise.awq import fold_scales
from ggquant.layerwise.cost import solving_cost
from ggquant.layerwise.finite import name_weight
from ggquant.layerwise.hessians import HessianFile, Origin, collect_hessians, digest_of_model, disk_need
from ggquant.layerwise.needs import Needs
from ggquant.layerwise.options import LayerwiseOptions
from ggquant.layerwise.report import FoldReport, TensorReport
from ggquant.layerwise.solve import solve_model
from ggquant.layerwise.watch import LayerwiseProgress, Watch
from ggquant.layerwise.work import WorkFile
from ggquant.metadata import MetaValue
from ggquant.pipeline import ConversionReport
from ggquant.policy import Options
from ggquant.progress import Progress
from ggquant.runtime import RunnableModel, open_model
from ggquant.runtime.backward import without_gradients
from ggquant.runtime.memory import work_rate
from ggquant.tokenizing import Tokenizer

Source = str | os.PathLike[str]

_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class LayerwiseReport:
    """What a quantization by a method did.

    Attributes:
        conversion: of the file that was written.
        tensors: what solving each tensor gave, in the order of the pass.
        folds: for AWQ, what scales are good for at each place, and why there are none at others.
        tokens: calibration tokens.
        seconds: duration.
    """

    conversion: ConversionReport
    tensors: list[TensorReport]
    folds: list[FoldReport]
    tokens: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For `--report`."""
        return {
            "path": str(self.conversion.path),
            "bytes": self.conversion.total_bytes,
            "bits_per_weight": self.conversion.bits_per_weight,
            "calibration_tokens": self.tokens,
            "seconds": self.seconds,
            "tensors": [asdict(tensor) for tensor in self.tensors],
            "folds": [asdict(fold) for fold in self.folds],
        }


def quantize_by_gptq(
    src: Source,
    dst: Source | None,
    variant: str,
    *,
    method: LayerwiseOptions | None = None,
    calibration: Sequence[Source] = (),
    chunks: int | None = None,
    context: int = 512,
    seed: int | None = None,
    hessians: Source | None = None,
    options: Options | None = None,
    pre: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    starting: Callable[[Needs], object] | None = None,
    solving: Callable[[LayerwiseProgress], object] | None = None,
    writing: Callable[[Progress], object] | None = None,
) -> LayerwiseReport:
    """Quantizes a model by GPTQ into an ordinary GGUF file of the variant, with the sizes that the variant has.

    Args:
        src, dst, variant, options, pre, threads, overwrite: as for `convert`.
        method: strength and effort.
        calibration: texts; the package's own without any.
        chunks: how many chunks of text to use, at most; all by default.
        context: tokens in a chunk.
        seed: choose the chunks at random, reproducibly; otherwise they are taken from the beginning. It is the seed of
            the labels that gradients are taken for as well.
        hessians: a file of Hessians to solve with, see `layerwise.hessians`. Where there is none, they are collected
            into it first. They are those of the model as it was: `method` is taken as `LayerwiseOptions.with_file`
            changes it.
        resume: keep solved tensors when the run fails or is interrupted, and go on from those that an earlier one left.
        starting: told what it takes, before anything is done.
        solving, writing: told of progress.

    Raises:
        UsageError: too little text, too little memory or disk space, arguments that cannot be right.
        UnsupportedError: an effort that takes gradients, of a model that has none.
        NonFiniteError: weights or activations that are not finite.
        FileError: the output exists, or the system refused a read or a write.
    """
    started = time.monotonic()
    chosen = replace(method or LayerwiseOptions(), threads=threads, seed=seed or 0)
    model = open_model(src, threads=threads, pre=pre)
    if hessians is not None:
        chosen = chosen.with_file()
    reason = without_gradients(model) if chosen.fisher and chosen.gptq else ""
    if reason:
        raise UnsupportedError(f"{src}: {reason}; use --effort normal, which needs no gradients", file=str(src))
    text = read_texts(calibration, model.metadata) if calibration else default_text()
    tokens = calibration_tokens(model, text, context, chunks, seed)
    stand_in = Imatrix({name: np.ones(size, np.float32) for name, size in _inputs(model).items()})
    plan = pipeline.plan(src, variant, imatrix=stand_in, options=options, pre=pre)
    formats = {
        t.name: t.format
        for t in plan.tensors
        if t.format not in (*_FLOATS, t.source) and (t.name in stand_in.entries or t.name == "token_embd.weight")
    }
    again = [t.name for t in plan.tensors if t.source not in _FLOATS and t.format != t.source]
    if again and not (options is not None and options.allow_requantize):
        raise UnsupportedError(
            f"{src}: '{again[0]}' is quantized already; use the original model, or --allow-requantize",
            file=str(src),
            tensor=again[0],
        )
    target = Path(dst) if dst is not None else pipeline.default_output(src, plan.variant)
    if target.exists() and not overwrite:
        raise FileError(f"{target}: exists already; --overwrite replaces it", file=str(target))
    if hessians is not None and target.resolve() == Path(hessians).resolve():
        raise UsageError(f"{target}: the output cannot be the file of Hessians", file=str(target))
    collects = hessians is not None and not Path(hessians).exists()
    rate = work_rate(model)
    cost = partial(solving_cost, model, tokens.size, formats, chosen, stored=hessians is not None, collects=collects)
    blocks = sum(tensor.nbytes for tensor in plan.tensors if tensor.name in formats)
    needs = Needs.of(
        model,
        tokens,
        formats,
        chosen,
        seconds=cost().total / rate,
        disk_bytes=plan.total_bytes + blocks,
        hessian_bytes=disk_need(model) if collects else 0,
    )
    needs.check(str(src), target.parent)
    if starting is not None:
        starting(needs)
    work = WorkFile(target, _fingerprint(model, text, tokens, formats, chosen), resume=resume)
    try:
        earlier = dict(work.done)
        known = formats.keys() & earlier
        watch = Watch(solving, model.n_layer, cost(done=known), rate, len(known), len(formats))
        stored: HessianFile | None = None
        if hessians is not None:
            stored = stored_hessians(model, text, tokens, Path(hessians), resume=resume, progress=watch.hessians)
        solving_model, folds = model, []
        if chosen.awq:
            unquantized = {t.name for t in plan.tensors if t.format == "F32"}
            folded = fold_scales(model, tokens, formats, unquantized, chosen, work, watch.scales)
            solving_model, folds = folded.model, folded.reports
            for one in folded.stored:
                if one.name not in earlier:
                    work.add(one)
        for solved in solve_model(
            solving_model, tokens, formats, chosen, watch.next, earlier, stored, gradients=watch.gradients
        ):
            if solved.name not in earlier:
                work.add(solved)
                watch.solved(solved.report)
        reports = [solved.report for solved in work.done.values() if solved.name in formats]
        matrix = Imatrix(
            {**stand_in.entries, **{s.name: s.importance for s in work.done.values() if s.importance is not None}},
            datasets=list(text.names),
            chunk_count=len(tokens),
        )
        conversion = pipeline.convert(
            src,
            target,
            variant,
            imatrix=matrix,
            options=_described(options or Options(), chosen),
            pre=pre,
            threads=threads,
            progress=writing,
            overwrite=overwrite,
            ready=work.views,
        )
    except BaseException as error:
        if not resume:
            work.remove()
        if isinstance(error, NonFiniteError):
            name_weight(model)
        raise
    work.remove()
    return LayerwiseReport(conversion, reports, folds, int(tokens.size), time.monotonic() - started)


def stored_hessians(
    model: RunnableModel,
    text: CalibrationText,
    tokens: np.ndarray[Any, np.dtype[np.int64]],
    path: Path,
    *,
    resume: bool,
    progress: Callable[[int, str], object] | None = None,
) -> HessianFile:
    """The file of Hessians at `path`, which is made if it is not there.

    Raises:
        FileError, UsageError, NonFiniteError: see `HessianFile` and `collect_hessians`.
    """
    origin = Origin.of(model, text, tokens)
    if path.exists():
        return HessianFile(path, origin)
    return collect_hessians(model, tokens, path, origin, resume=resume, progress=progress)


def calibration_tokens(
    model: RunnableModel, text: CalibrationText, context: int, chunks: int | None, seed: int | None
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The text's chunks, [n_chunks, context]: the first ones, or with a seed a random choice in order."""
    tokenizer = Tokenizer(model.metadata, model.path)
    ids = tokenizer.encode(text.text, parse_special=text.has_special)
    bos = tokenizer.bos if tokenizer.add_bos else None
    inputs = cut(ids, context, bos=bos, chunks=None if seed is not None else chunks, name=text.names[0]).inputs
    if seed is None or chunks is None or chunks >= len(inputs):
        return inputs
    kept = np.sort(np.random.default_rng(seed).permutation(len(inputs))[:chunks])
    return np.ascontiguousarray(inputs[kept])


def _inputs(model: RunnableModel) -> dict[str, int]:
    """Matrices that have an input whose columns can be counted, and how many importances they take."""
    sizes = {}
    for tensor in model.source.tensors:
        matrix = tensor.name.startswith("blk.") or tensor.name == "output.weight"
        if matrix and tensor.name.endswith(".weight") and len(tensor.shape) >= 2:
            experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
            sizes[tensor.name] = experts * tensor.shape[-1]
    return sizes


def _fingerprint(
    model: RunnableModel,
    text: CalibrationText,
    tokens: np.ndarray[Any, np.dtype[np.int64]],
    formats: Mapping[str, str],
    method: LayerwiseOptions,
) -> str:
    """A digest of everything that a solution depends on: weights, tokens, formats, options, version."""
    digest = hashlib.sha256()
    digest.update(repr((__version__, sorted(formats.items()), replace(method, threads=None), text.names)).encode())
    digest.update(np.ascontiguousarray(tokens).tobytes())
    digest.update(digest_of_model(model).encode())
    return digest.hexdigest()


def _described(options: Options, method: LayerwiseOptions) -> Options:
    """The options with a note of the method in the output's metadata."""
    note = {
        "quantize.method": MetaValue(
            "STRING",
            f"{'awq+' if method.awq and method.gptq else ''}{'gptq' if method.gptq else 'awq'} {method.effort}",
        )
    }
    return replace(options, overrides={**note, **options.overrides})

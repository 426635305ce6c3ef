"""The only orchestrator: source -> plan -> native conversion -> report."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.errors import Error, ImatrixError, UnsupportedError, UsageError
from ggquant.imatrix import Imatrix, coverage, load_imatrix
from ggquant.manifest import manifest as describe
from ggquant.manifest import manifest_path, write_manifest
from ggquant.metadata import Metadata, MetaValue, to_native
from ggquant.native_plan import NativeModel, NativeTensor, native_tensor, ready_tensor
from ggquant.packed.act_order import folds
from ggquant.packed.transcode import ON_GRID, transcoding
from ggquant.planned import Plan, PlannedTensor
from ggquant.policy import (
    Category,
    Decision,
    ModelFacts,
    Obstacle,
    Options,
    Refusal,
    Variant,
    choose,
    copied_file_type,
    find_variant,
    prune,
    refusals,
    variant_label,
)
from ggquant.policy import warnings as policy_warnings
from ggquant.progress import Progress
from ggquant.recipe import apply_recipe
from ggquant.registry import format_info
from ggquant.sources import load_model
from ggquant.tensor import _threads
from ggquant.tensor_types import tensor_bytes
from ggquant.text_files import refuse_existing

if TYPE_CHECKING:
    from ggquant.model import Model, SourceTensor, View
    from ggquant.overrides import TensorType

    Source = str | os.PathLike[str]
    ImatrixLike = Source | Imatrix | Mapping[str, npt.ArrayLike]

#: `general.quantization_version` of the k-quant layouts this package writes.
QUANTIZATION_VERSION = 2


@dataclass
class ConversionReport:
    """What a conversion did.

    Attributes:
        paths: the files written, in shard order.
        tensors: every tensor and its format.
        total_bytes: size of all files.
        bits_per_weight: mean stored bits per weight.
        seconds: duration.
        isa: instruction set that encoded.
        warnings: what the user should know.
        reused_bytes: bytes of tensor data taken over from an interrupted run.
        on_grid: of the tensors in which blocks on the format's own grid were looked for, how many were found.
        also: the reports of the other variants that were made of the same reading, by name.
    """

    paths: list[Path]
    tensors: list[PlannedTensor]
    total_bytes: int
    bits_per_weight: float
    seconds: float
    isa: str
    warnings: list[str] = field(default_factory=list)
    reused_bytes: int = 0
    on_grid: dict[str, int] = field(default_factory=dict)
    also: dict[str, ConversionReport] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file written; of a split output, its first shard."""
        return self.paths[0]

    @property
    def fallbacks(self) -> list[PlannedTensor]:
        """Tensors that did not get the format the variant asks for."""
        return [t for t in self.tensors if t.fallback is not None]


@dataclass
class _Job:
    """A plan with what it takes to carry it out.

    Attributes:
        shards: numbers of tensors in the shards, with `keep_split`.
        inputs: the files it is made from.
        imatrix: the file of importances.
    """

    plan: Plan
    tensors: list[NativeTensor]
    label: str
    shards: list[int] | None
    inputs: list[str]
    imatrix: str | None


def plan(
    src: Source,
    variant: str,
    *,
    imatrix: ImatrixLike | None = None,
    options: Options | None = None,
    pre: str | None = None,
    recipe: Sequence[TensorType] = (),
) -> Plan:
    """Decides everything about a conversion from headers alone; reads no weight.

    Args:
        src: folder of a Hugging Face checkpoint, a `.safetensors` file beside its config, or a GGUF file.
        variant: `"Q4_K_M"` and its kin, in any case; see `gg.variants()`.
        imatrix: importance matrix: a file, an `Imatrix`, arrays by tensor name, or "auto" to collect one now from the
            text that ships with the package.
        options: see `gg.Options`.
        pre: name of the pre-tokenizer, instead of the one found from the tokenizer.
        recipe: formats of tensors, as `ggquant.recipe.parse_recipe` reads them; they have the last word.

    What would stop the conversion (a format that needs an importance matrix, a tensor that is quantized already) is a
    warning here.

    Raises:
        UsageError: unknown variant, or options that contradict each other or the model.
        FileError, MalformedFileError, CheckpointError, UnsupportedError: the source cannot be converted, and why.
        ImatrixError: the importance matrix does not belong to this model.
    """
    matrix = _matrix(src, imatrix, None, pre)
    model = load_model(src, pre=pre)
    return _prepare(src, model, variant, matrix, options or Options(), recipe, dry_run=True).plan


def convert(
    src: Source,
    dst: Source | None = None,
    variant: str = "Q4_K_M",
    *,
    imatrix: ImatrixLike | None = None,
    options: Options | None = None,
    pre: str | None = None,
    threads: int | None = None,
    progress: Callable[[Progress], object] | None = None,
    overwrite: bool = False,
    split_max_size: int | None = None,
    split_max_tensors: int | None = None,
    also: Mapping[str, Source] | None = None,
    recipe: Sequence[TensorType] = (),
    manifest: bool = False,
    resume: bool = False,
    max_buffer_size: int | None = None,
    ready: Mapping[str, View] | None = None,
) -> ConversionReport:
    """Quantizes a model into a GGUF file, with the bytes that llama.cpp's converter and quantizer give.

    Weights are streamed: memory stays bounded whatever the model's size. The output appears under its name when it is
    whole; a failure, an exception from `progress` and Ctrl-C leave nothing behind.

    Args:
        src, variant, imatrix, options, pre, recipe: see `plan`.
        dst: the file to write, by default `ggml-model-<VARIANT>.gguf` in the source's folder.
        threads: number of threads, by default one per core. It does not change the result.
        progress: called a few times a second, on the calling thread.
        overwrite: replace existing files when the new ones are complete.
        split_max_size: most bytes of tensor data in a shard; `dst`, less its suffix, then begins the shards' names.
        split_max_tensors: most tensors in a shard.
        also: other variants to make of the same reading, and the files they go to. Options and recipe are theirs, too.
        manifest: write a JSON file beside each output that says what it was made from: inputs with their hashes,
            options, version, recipe, importance matrix. Its name is `dst` with `.json` added.
        resume: keep what is done when the conversion fails or is interrupted, in hidden files beside the output, and
            take up what an earlier such run left. Every piece is verified by its content; inputs are read again.
        max_buffer_size: most megabytes (MiB) of weights to hold in memory, by default 72.
        ready: where tensors lie that have their format already, by name; they are copied as they are. Their format
            must be the one that the plan gives them.

    Raises:
        ImatrixError: the variant needs an importance matrix, or it does not belong to this model.
        NonFiniteError: a weight is NaN or infinite.
        UsageError: the output is one of the inputs, and what `plan` raises it for.
        FileError: the output exists, or the system refused a read or a write.
    """
    started = time.monotonic()
    opts = options or Options()
    matrix = _matrix(src, imatrix, threads, pre)
    model = load_model(src, pre=pre)
    if max_buffer_size is not None and max_buffer_size <= 0:
        raise UsageError(f"{max_buffer_size} MiB of buffers are not enough to hold anything")
    main = _prepare(src, model, variant, matrix, opts, recipe, dry_run=False, ready=ready or {})
    others = {name: _prepare(src, model, name, matrix, opts, recipe, dry_run=False) for name in also or {}}
    split = opts.keep_split or split_max_size is not None or split_max_tensors is not None
    targets = [Path(dst) if dst is not None else default_output(src, main.label)]
    targets += [Path(path) for path in (also or {}).values()]
    jobs = [main, *others.values()]
    manifests = [manifest_path(target) for target in targets] if manifest else []
    for path in manifests:
        refuse_existing(path, overwrite=overwrite)
    for target in (*targets, *manifests):
        _refuse_inputs(target, src, [*model.inputs, *([matrix.file] if matrix is not None and matrix.file else [])])
    models = [
        NativeModel(
            target=str(target.with_suffix("") if split and target.suffix == ".gguf" else target),
            metadata=to_native(job.plan.metadata),
            tensors=job.tensors,
            split_max_bytes=split_max_size,
            split_max_tensors=split_max_tensors,
            shards=job.shards,
        )
        for job, target in zip(jobs, targets, strict=True)
    ]
    total = sum(len(job.tensors) for job in jobs)

    def report(tensor: str, format: str, finished: int, done: int, of: int) -> None:
        if progress is not None:
            progress(Progress(tensor, format, finished, total, done, of, time.monotonic() - started))

    limit = None if max_buffer_size is None else max_buffer_size << 20
    written, _, reused, on_grid = _native.convert_models(models, _threads(threads), overwrite, resume, limit, report)
    reports = []
    for job, target, files, found in zip(jobs, targets, written, on_grid, strict=True):
        if manifest:
            write_manifest(target, describe(job.plan, job.inputs, job.imatrix, opts), overwrite=overwrite)
        reports.append(
            ConversionReport(
                paths=[path for path, _ in files],
                tensors=job.plan.tensors,
                total_bytes=sum(nbytes for _, nbytes in files),
                bits_per_weight=job.plan.bits_per_weight,
                seconds=time.monotonic() - started,
                isa=_native.isa(),
                warnings=job.plan.warnings,
                reused_bytes=reused,
                on_grid=dict(found),
            )
        )
    reports[0].also = dict(zip(others, reports[1:], strict=True))
    return reports[0]


def _matrix(src: Source, imatrix: ImatrixLike | None, threads: int | None, pre: str | None) -> Imatrix | None:
    if isinstance(imatrix, str) and imatrix == "auto":
        from ggquant.calibration.auto import auto_imatrix

        return auto_imatrix(src, threads=threads, pre=pre)
    return load_imatrix(imatrix) if imatrix is not None else None


def default_output(src: Source, label: str) -> Path:
    """Where a conversion goes that names no output: `ggml-model-<LABEL>.gguf` beside the weights.

    In the current folder instead, if the weights' folder cannot be written.
    """
    source = Path(src)
    folder = source if source.is_dir() else source.parent
    if not os.access(folder, os.W_OK):
        folder = Path()
    return folder / f"ggml-model-{label}.gguf"


def _prepare(
    src: Source,
    model: Model,
    variant: str,
    matrix: Imatrix | None,
    options: Options,
    recipe: Sequence[TensorType],
    *,
    dry_run: bool,
    ready: Mapping[str, View] | None = None,
) -> _Job:
    chosen = find_variant(variant)
    if not model.tensors:
        raise UnsupportedError(f"{src}: there are no tensors in it", file=str(src))
    tensors = _by_shard(model, src) if options.keep_split else model.tensors
    facts = ModelFacts.from_metadata(model.metadata, [t.name for t in tensors], arch=model.arch)
    headers = [(t.name, t.shape, t.dtype) for t in tensors]
    if matrix is not None:
        _check_names(matrix, {t.name for t in model.tensors}, str(src))
    names: Collection[str] | bool = matrix.entries if matrix is not None else False
    decisions = choose(facts, headers, chosen, imatrix=names, options=options)
    decisions = apply_recipe(decisions, recipe, chosen)
    said = [*model.warnings, *(matrix.warnings if matrix else ())]
    said += policy_warnings(facts, decisions, chosen, options=options)
    obstacles = refusals(decisions, imatrix=names, options=options)
    if obstacles and not dry_run:
        raise _refusal(obstacles, str(src))
    said += [obstacle.message for obstacle in obstacles]
    sources = {t.name: t for t in model.tensors}
    scattered = {} if ready else _fold_act_order(model, sources, decisions, options)
    planned, native = [], []
    for decision in decisions:
        source = sources[decision.source]
        kept = transcoding(
            source,
            decision.format,
            encode=options.encoder == "ordinary",
            scattered=scattered.get(decision.source, ""),
        )
        keeps_codes = kept is not None and kept.keeps_codes
        lattice = {"auto": "auto", "lattice": "only"}.get(options.encoder, "off")
        importance = None if keeps_codes else _importance(matrix, decision, said)
        planned.append(
            PlannedTensor(
                name=decision.name,
                shape=decision.shape,
                source=source.dtype,
                wanted=decision.wanted,
                format=decision.format,
                nbytes=tensor_bytes(decision.shape, decision.format),
                why=decision.why,
                fallback=decision.fallback,
                imatrix=importance is not None,
                transcoding=str(kept) if kept is not None else None,
            )
        )
        view = (ready or {}).get(decision.source)
        if view is not None:
            native.append(ready_tensor(view, decision))
        else:
            searched = lattice if decision.format in ON_GRID and decision.format != source.dtype else "off"
            native.append(native_tensor(source, decision, importance, keeps_codes=keeps_codes, lattice=searched))
    metadata = _output_metadata(model, chosen, options, matrix)
    return _Job(
        Plan(str(src), chosen.name, planned, metadata, said),
        native,
        variant_label(variant),
        _shard_sizes(model, decisions, src) if options.keep_split else None,
        model.inputs,
        matrix.file if matrix is not None else None,
    )


def _fold_act_order(
    model: Model, sources: dict[str, SourceTensor], decisions: Sequence[Decision], options: Options
) -> dict[str, str]:
    """Puts inputs in act-order back together in `sources` where that keeps codes; says why it cannot be for others."""
    if options.encoder == "ordinary":
        return {}
    found, reasons = folds(model)
    formats = {decision.source: decision.format for decision in decisions}
    for name, fold in found.items():
        kept = transcoding(fold.matrix, formats[name]) if name in formats else None
        if kept is not None and kept.keeps_codes:
            sources |= {name: fold.matrix, **fold.before}
    return reasons


def _by_shard(model: Model, src: Source) -> list[SourceTensor]:
    """The tensors in the order in which they lie in the shards."""
    if any(len(t.views) != 1 or t.views[0].file not in model.inputs for t in model.tensors):
        raise UsageError(f"{src}: only GGUF files have shards to keep; use --split-max-size or --split-max-tensors")
    places = {file: number for number, file in enumerate(model.inputs)}
    return sorted(model.tensors, key=lambda t: (places[t.views[0].file], t.views[0].offset))


def _shard_sizes(model: Model, decisions: list[Decision], src: Source) -> list[int]:
    """Numbers of tensors in the shards of an output that has those of the input."""
    files = {t.name: t.views[0].file for t in model.tensors}
    counts = Counter(files[decision.source] for decision in decisions)
    sizes = [counts[file] for file in model.inputs]
    while len(sizes) > 1 and sizes[-1] == 0:
        sizes.pop()
    # The first may hold metadata alone; upstream cannot write any other shard without tensors.
    if 0 in sizes[1:]:
        raise UsageError(f"{src}: --prune-layers leaves a shard empty; do without --keep-split")
    return sizes


def _refuse_inputs(target: Path, src: Source, inputs: list[str]) -> None:
    """An output must not take the place of what it is made from: a weight file, a checkpoint's JSON, the imatrix.

    GGUF files beside a checkpoint's weights are earlier outputs, not parts of it.
    """
    source = Path(src)
    folder = source if source.is_dir() else source.parent if source.suffix == ".safetensors" else None
    parts = [p for p in folder.iterdir() if p.suffix != ".gguf"] if folder is not None else []
    for path in (*map(Path, inputs), *parts):
        if target.exists() and path.exists() and target.samefile(path):
            raise UsageError(
                f"{target}: it is an input of this conversion ({path}); name another output", file=str(target)
            )


def _refusal(obstacles: list[Refusal], src: str) -> Error:
    """The exception for what stands in the way: the first obstacle in full, the others counted."""
    first = obstacles[0]
    others = f" (and {len(obstacles) - 1} more tensors)" if len(obstacles) > 1 else ""
    kind = {Obstacle.IMATRIX: ImatrixError, Obstacle.SOURCE: UnsupportedError}.get(first.kind, UsageError)
    return kind(f"{src}: {first.message}{others}", file=src, tensor=first.tensor)


def _check_names(matrix: Imatrix, names: Collection[str], src: str) -> None:
    """A matrix may have tensors that a model lacks (an output, where that is tied), but not for the most part."""
    foreign = [name for name in matrix.entries if name not in names]
    if foreign and 2 * len(foreign) >= len(matrix.entries):
        raise ImatrixError(
            f"importance matrix has {len(foreign)} of {len(matrix.entries)} tensors, such as '{foreign[0]}', that are "
            f"not in {src}; it was made for another model",
            file=matrix.file,
            tensor=foreign[0],
        )


def _importance(matrix: Imatrix | None, decision: Decision, warnings: list[str]) -> npt.NDArray[np.float32] | None:
    """The importances of a tensor that is to be encoded, checked against its shape."""
    if matrix is None or decision.format == decision.dtype or format_info(decision.format).imatrix == "ignored":
        return None
    values = matrix.entries.get(decision.source)
    if values is None:
        if decision.category is not Category.TOKEN_EMBD:
            warnings.append(f"tensor '{decision.name}': no importances for it, so its columns count alike")
        return None
    experts = decision.shape[-3] if len(decision.shape) > 2 else 1
    expected = decision.shape[-1] * experts
    if values.size != expected:
        what = f"importance matrix has {values.size} values for it, but its shape {decision.shape} takes {expected}"
        # Files that treat the embedding as an output have another length for it; upstream goes on without it, too.
        if decision.category is Category.TOKEN_EMBD:
            warnings.append(f"tensor '{decision.name}': {what}; its columns count alike")
            return None
        raise ImatrixError(
            f"tensor '{decision.name}': {what}; it was made for another model",
            file=matrix.file,
            tensor=decision.name,
        )
    warnings += coverage(decision.name, values.reshape(experts, -1), matrix.counts.get(decision.source))
    return values


def _output_metadata(model: Model, variant: Variant, options: Options, matrix: Imatrix | None) -> Metadata:
    """The metadata that llama-quantize would write: keys that it sets go to the end, as there."""
    metadata = Metadata(model.metadata)
    metadata.set_last("general.quantization_version", MetaValue("UINT32", QUANTIZATION_VERSION))
    file_type = variant.file_type
    if variant.copies:
        stated = model.metadata.get("general.file_type")
        known = stated.value if stated is not None and isinstance(stated.value, int) else None
        file_type = copied_file_type(known, ((t.name, t.dtype) for t in model.tensors))
    metadata.set_last("general.file_type", MetaValue("UINT32", file_type))
    for key, value in options.overrides.items():
        metadata.set_last(key, value)
    if matrix is not None:
        matrix.describe(metadata, redact_paths=options.redact_paths)
    pruned = prune([t.name for t in model.tensors], options.prune_layers)
    if pruned.block_count is not None:
        metadata.set_last(f"{model.arch}.block_count", MetaValue("UINT32", pruned.block_count))
    return metadata

"""Exports: a model in, a folder in the layout of GPTQ, AWQ or compressed-tensors out."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggquant import __version__
from ggquant.bounded_json import read_object
from ggquant.checkpoint_index import INDEX_NAME, StoredTensor, index_checkpoint, read_header
from ggquant.errors import CheckpointError, UnsupportedError, UsageError
from ggquant.export.calibrated import Calibration, ChangedTensor, ModulePass, SolvedModule
from ggquant.export.description import quantization_config
from ggquant.export.folder import Entry, Journal, ShardWriter, new_folder
from ggquant.export.from_gguf import BlockWeights, block_weights
from ggquant.export.layouts import Codes, check_zeros, float_bytes, scale_type
from ggquant.export.modules import StoredWeights, fused_apart, nothing_to_quantize, split_names, vector_values
from ggquant.export.plan import Planned, entries_of, linear_of, plan_module
from ggquant.export.scheme import ACT_ORDER, CALIBRATED, Layout, Method, Scheme, check, unserved
from ggquant.export.solve import round_groups
from ggquant.file_digest import add_file
from ggquant.packed.checkpoint import quantization_of, unpacked
from ggquant.progress import Progress

if TYPE_CHECKING:
    import os

#: Weights read at once.
_BAND = 4 << 20

#: Bytes copied at once.
_PIECE = 16 << 20

#: What is copied beside the weights: tokenizers, chat templates, generation settings.
_COPIED = (".json", ".txt", ".model", ".jinja", ".tiktoken")
_MADE_ANEW = ("config.json", "quantize_config.json", "quant_config.json", INDEX_NAME)


@dataclass(frozen=True, slots=True)
class ExportedModule:
    """A quantized module.

    Attributes:
        name: its name.
        shape: outputs and inputs.
        bits, group_size, symmetric: how it is quantized.
        how: "rounded to nearest", "gptq", "awq" or "awq+gptq", "exact" (the codes and scales of the source), or
            "re-quantized: ..." with the reason.
        max_error: largest difference between a weight and its value in the checkpoint; 0.0 where codes are kept. AWQ's
            scales, and corrections for what earlier layers lost, count as errors here.
        gain: error of the outputs on the calibration text relative to that of rounding to nearest; None where there
            is none, or nothing to compare.
    """

    name: str
    shape: tuple[int, int]
    bits: int
    group_size: int
    symmetric: bool
    how: str
    max_error: float
    gain: float | None = None


@dataclass
class ExportReport:
    """What an export did.

    Attributes:
        path: the folder.
        layout: its layout.
        modules: the quantized modules.
        kept: names of the linear modules that stay as they are.
        total_bytes: bytes of all tensors.
        seconds: duration.
        tokens: calibration tokens; 0 without calibration.
        warnings: what the user should know.
    """

    path: Path
    layout: str
    modules: list[ExportedModule]
    kept: list[str]
    total_bytes: int
    seconds: float
    tokens: int = 0
    warnings: list[str] = field(default_factory=list)


def export_checkpoint(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    to: Layout,
    *,
    scheme: Scheme | None = None,
    method: Method | None = None,
    calibration: Calibration | None = None,
    like: str | os.PathLike[str] | None = None,
    skip: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
    resume: bool = False,
    threads: int | None = None,
    progress: Callable[[Progress], object] | None = None,
) -> ExportReport:
    """Writes a model as a checkpoint folder that GPU servers load. It appears whole or not at all.

    Args:
        src: folder of a checkpoint, in full precision or packed (GPTQ, AWQ, compressed-tensors, AutoRound), or a GGUF
            file.
        dst: the folder to make.
        to: "gptq", "gptq_v2", "awq" or "compressed-tensors".
        scheme: bits, group size and symmetry; by default 4 bits, groups of 128, symmetric but for AWQ.
        method: "rtn" rounds weights to the nearest point of their group's grid; "gptq" lets their errors make up for
            each other; "awq" scales columns before rounding, where what makes their input can take the reciprocal;
            "awq+gptq" does both. "keep" takes over the codes and scales of packed weights or blocks, and refuses
            others. By default codes are kept where the layout can hold them, and weights rounded otherwise.
        calibration: for "gptq" and "awq": texts, damping, act-order.
        like: for a GGUF file, folder of a checkpoint of the same model, which gives names, shapes and configuration.
        skip: regular expression of modules to keep as they are, besides heads, routers and other modalities.
        max_shard_bytes: most bytes of tensors in a shard.
        overwrite: replace an existing checkpoint.
        resume: keep what is done when the run fails or is killed, and go on from what an earlier run with the same
            source and arguments has left.
        threads: number of threads, by default one per core. It does not change the result.
        progress: called after each tensor, on the calling thread.

    Raises:
        UsageError: a layout, width or group size that do not go together; too little text.
        UnsupportedError: a module that the layout cannot hold, with the reason; a family that cannot be run.
        CheckpointError, MalformedFileError, FileError: the source cannot be read, or the folder not be written.
    """
    started = time.monotonic()
    source, target = Path(src), Path(dst)
    like_folder = source if like is None else Path(like)
    if source.is_dir() != (like is None):
        raise UsageError(f"{source}: a GGUF file needs --like, a checkpoint of the same model; a folder needs none")
    if calibration is not None and method not in CALIBRATED:
        raise UsageError("calibration goes with the methods " + ", ".join(CALIBRATED))
    how = calibration or Calibration()
    if how.act_order and (to not in ACT_ORDER or "gptq" not in (method or "")):
        raise UsageError(
            f"act-order goes with the method gptq and the layouts {' and '.join(ACT_ORDER)}, not with {to}"
        )
    config, stored, warnings = _open(like_folder)
    blocks = {} if like is None else block_weights(source, like_folder, stored)
    asked = scheme or Scheme(symmetric=to != "awq")
    check(to, asked)
    chosen, kept = split_names(stored.values(), skip)
    if not chosen:
        raise UnsupportedError(f"{source}: {nothing_to_quantize(stored.values())}", file=str(source))
    planned = {}
    for name in chosen:
        linear = linear_of(stored[f"{name}.weight"], blocks.get(f"{name}.weight"))
        planned[name] = plan_module(to, linear, asked, scheme is not None, method, how.act_order, threads)
    schemes = {name: module.scheme for name, module in planned.items()}
    warnings += unserved(to, schemes) + fused_apart(schemes, kept)
    solver = None
    if method in CALIBRATED:
        scales = {name: scale_type(to, module.linear.dtype) for name, module in planned.items()}
        least_zero = 1 if to == "gptq" else 0
        solver = ModulePass(source, like_folder, stored, scales, asked, least_zero, method, how, threads)
        warnings += solver.warnings
    act_order = any(module.act_order for module in planned.values())
    description = quantization_config(
        to, schemes, kept, act_order=act_order, method=method or "rtn",
        facts={"damp_percent": how.damp, "true_sequential": how.sequential} if solver is not None else {},
    )  # fmt: skip
    settings = {**_without_old(config), "quantization_config": description}
    tag = None
    if resume:
        tokens = b"" if solver is None else np.ascontiguousarray(solver.tokens).tobytes()
        facts = (__version__, to, str(asked), method, str(how), skip, max_shard_bytes, str(sorted(schemes.items())))
        files = {tensor.file for tensor in stored.values()} | ({str(source)} if like is not None else set())
        tag = _fingerprint((json.dumps(settings), repr(facts)), tokens, sorted(files))
    run = _Run(to, stored, planned, blocks, threads, progress, started)
    if solver is not None:
        solver.preflight(run.total, target.parent)
    with new_folder(target, overwrite=overwrite, tag=tag) as folder:
        _copy_files(like_folder, folder)
        _write_json(folder / "config.json", settings)
        if to in ("gptq", "gptq_v2"):
            _write_json(folder / "quantize_config.json", description)
        run.write(folder, max_shard_bytes, solver, method, resume=resume)
    seconds = time.monotonic() - started
    tokens_used = 0 if solver is None else int(solver.tokens.size)
    return ExportReport(target, to, run.modules(), kept, run.total, seconds, tokens_used, warnings)


class _Run:
    """The writing of one export."""

    def __init__(
        self,
        to: Layout,
        stored: Mapping[str, StoredTensor],
        planned: Mapping[str, Planned],
        blocks: Mapping[str, BlockWeights],
        threads: int | None,
        progress: Callable[[Progress], object] | None,
        started: float,
    ) -> None:
        self._to, self._stored, self._planned, self._blocks = to, stored, planned, blocks
        self._threads, self._progress, self._started = threads, progress, started
        self._entries = {_unit(t, planned): list(entries_of(t, planned)) for t in stored.values()}
        self.total = sum(entry.nbytes for own in self._entries.values() for entry in own)
        self._bytes_done = 0
        self._writer: ShardWriter
        self._journal: Journal

    def write(
        self, folder: Path, max_shard_bytes: int, solver: ModulePass | None, method: str | None, *, resume: bool
    ) -> None:
        """Writes everything that the folder does not hold yet."""
        entries = [entry for own in self._entries.values() for entry in own]
        self._writer = ShardWriter(folder, entries, max_shard_bytes)
        units = {unit: [entry.name for entry in own] for unit, own in self._entries.items()}
        try:
            self._journal = Journal(folder if resume else None, self._writer, units)
            earlier = list(self._journal.done)
            self._bytes_done = sum(entry.nbytes for unit in earlier for entry in self._entries[unit])
            if solver is not None:
                self._solve(solver, folder, method or "", resume=resume)
            for tensor in self._stored.values():
                unit = _unit(tensor, self._planned)
                if unit in self._journal.done:
                    continue
                module = self._planned.get(unit)
                if module is not None:
                    self._finish(unit, asdict(self._without_text(module)))
                    continue
                for at, piece in _pieces(tensor, self._blocks.get(tensor.name), self._threads):
                    self._writer.write(tensor.name, piece, at)
                self._finish(unit, {})
        finally:
            self._writer.close()

    def modules(self) -> list[ExportedModule]:
        """What became of the modules, in the order of the checkpoint."""
        facts = (self._journal.done[name] for name in self._entries if name in self._planned)
        return [ExportedModule(**{**fact, "shape": tuple(fact["shape"])}) for fact in facts]

    def _solve(self, solver: ModulePass, folder: Path, method: str, *, resume: bool) -> None:
        values = _Finished(folder, self._stored)
        for made in solver.run(solver.earlier(set(self._journal.done), values), resume=resume):
            if isinstance(made, ChangedTensor):
                self._writer.write(made.name, made.data)
                self._finish(made.name, {})
            else:
                self._finish(made.name, asdict(self._solved(made, method)))

    def _solved(self, made: SolvedModule, method: str) -> ExportedModule:
        module = self._planned[made.name]
        report = made.report
        gain = report.solved / report.rounded if report.rounded else None
        how = f"{method} ({report.note})" if report.note else method
        error = self._largest_error(module, made.codes)
        return self._put(module, made.codes, how, error, gain)

    def _without_text(self, module: Planned) -> ExportedModule:
        """Writes a module whose codes are kept or found by rounding."""
        if module.keep:
            found = module.linear.weights.codes(self._threads, module.scheme)
            if found is None:
                raise UnsupportedError(
                    f"module {module.linear.name} changed while it was read", tensor=module.linear.name
                )
            return self._put(module, found[1], "exact", 0.0, None)
        codes, error = self._rounded(module)
        return self._put(
            module, codes, f"re-quantized: {module.why}" if module.why else "rounded to nearest", error, None
        )

    def _put(self, module: Planned, codes: Codes, how: str, error: float, gain: float | None) -> ExportedModule:
        linear, scheme = module.linear, module.scheme
        check_zeros(self._to, linear.name, codes)
        for part in module.parts:
            self._writer.write(f"{linear.name}.{part.end}", part.make(codes))
        shape = (linear.rows, linear.columns)
        return ExportedModule(linear.name, shape, scheme.bits, scheme.group_size, scheme.symmetric, how, error, gain)

    def _finish(self, unit: str, facts: dict[str, Any]) -> None:
        self._journal.note(unit, facts)
        self._bytes_done += sum(entry.nbytes for entry in self._entries[unit])
        if self._progress is not None:
            spent = time.monotonic() - self._started
            done = sum(name in self._planned for name in self._journal.done)
            self._progress(Progress(unit, self._to, done, len(self._planned), self._bytes_done, self.total, spent))

    def _bands(self, rows: int, columns: int) -> Iterator[tuple[int, int]]:
        step = max(1, _BAND // columns)
        return ((first, min(first + step, rows)) for first in range(0, rows, step))

    def _rounded(self, module: Planned) -> tuple[Codes, float]:
        """Codes by rounding to nearest, a band of rows at a time, and the largest error."""
        linear, scheme = module.linear, module.scheme
        rows, columns = linear.rows, linear.columns
        codes, shape = np.empty((rows, columns), np.uint8), (rows, scheme.groups(columns))
        made = Codes(codes, np.empty(shape, np.float32), np.empty(shape, np.uint8))
        kind, worst = scale_type(self._to, linear.dtype), 0.0
        for first, last in self._bands(rows, columns):
            values = linear.weights.values(first, last, self._threads)
            least_zero = 1 if self._to == "gptq" else 0
            band = round_groups(linear.name, values, scheme, kind, least_zero, self._threads, first)
            made.codes[first:last], made.scales[first:last], made.zeros[first:last] = (
                band.codes,
                band.scales,
                band.zeros,
            )
            worst = max(worst, _difference(band.dequantize(), values))
        return made, worst

    def _largest_error(self, module: Planned, codes: Codes) -> float:
        linear, worst = module.linear, 0.0
        groups = codes.listed
        if groups is None:
            groups = (np.arange(linear.columns) // module.scheme.group_len(linear.columns)).astype(np.int32)
        for first, last in self._bands(linear.rows, linear.columns):
            off = codes.codes[first:last].astype(np.float32)
            off -= codes.zeros[first:last].astype(np.float32)[:, groups]
            off *= codes.scales[first:last][:, groups]
            worst = max(worst, _difference(off, linear.weights.values(first, last, self._threads)))
        return worst


class _Finished:
    """Reads what an unfinished folder holds of a module or a vector."""

    def __init__(self, folder: Path, stored: Mapping[str, StoredTensor]) -> None:
        self._folder, self._stored = folder, stored
        self._tensors: dict[str, StoredTensor] | None = None

    def __call__(self, unit: str) -> npt.NDArray[np.float32]:
        if self._tensors is None:
            found = {n: t for path in sorted(self._folder.glob("*.safetensors")) for n, t in read_header(path).items()}
            quantization = quantization_of(read_object(self._folder / "config.json"), self._folder / "config.json")
            self._tensors = found if quantization is None else unpacked(found, quantization, [])
        if unit in self._stored:
            return vector_values(self._tensors[unit])
        tensor = self._tensors[f"{unit}.weight"]
        return StoredWeights(tensor).values(0, tensor.shape[0], None)


def _unit(tensor: StoredTensor, planned: Mapping[str, Planned]) -> str:
    module = tensor.name.removesuffix(".weight")
    return module if module in planned and tensor.name != module else tensor.name


def _fingerprint(facts: Iterable[str], tokens: bytes, files: Iterable[str]) -> str:
    """A digest of everything that an export depends on: arguments, text, and the contents of its source."""
    digest = hashlib.sha256("\0".join(facts).encode() + tokens)
    for path in files:
        add_file(digest, path)
    return digest.hexdigest()[:16]


def _difference(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    off = a - b
    return float(max(off.max(initial=0.0), -off.min(initial=0.0)))


def _open(source: Path) -> tuple[dict[str, Any], dict[str, StoredTensor], list[str]]:
    path = source / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{source}: no config.json; a checkpoint needs one beside its weights", file=str(source))
    config, warnings = read_object(path), list[str]()
    stored = index_checkpoint(source)
    quantization = quantization_of(config, path)
    if quantization is not None:
        stored = unpacked(stored, quantization, warnings)
    return config, stored, warnings


def _without_old(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("quantization_config", "compression_config")}


def _pieces(
    tensor: StoredTensor, blocks: BlockWeights | None, threads: int | None
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """A tensor that stays as it is, or, from a GGUF file, in the type that the checkpoint has it in."""
    if tensor.packed is not None:
        raise UnsupportedError(
            f"tensor {tensor.name} is packed and would have to stay as it is; quantize it as well (do without --skip)",
            tensor=tensor.name,
        )
    if blocks is not None:
        rows = prod(tensor.shape[:-1]) if len(tensor.shape) > 1 else tensor.shape[0]
        step, at = max(1, _BAND * rows // prod(tensor.shape)), 0
        for first in range(0, rows, step):
            piece = float_bytes(blocks.values(first, min(first + step, rows), threads), tensor.dtype)
            yield at, piece
            at += piece.size
        return
    nbytes = Entry(tensor.name, tensor.dtype, tensor.shape).nbytes
    for at in range(0, nbytes, _PIECE):
        piece = np.fromfile(tensor.file, np.uint8, min(_PIECE, nbytes - at), offset=tensor.offset + at)
        if piece.size != min(_PIECE, nbytes - at):
            raise CheckpointError(f"{tensor.file}: tensor {tensor.name} is cut short", file=tensor.file)
        yield at, piece


def _copy_files(source: Path, folder: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in _COPIED and path.name not in _MADE_ANEW:
            shutil.copyfile(path, folder / path.name)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

"""Exports: a model in, a folder in the layout of GPTQ, AWQ or compressed-tensors out."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.bounded_json import read_object
from ggquant.checkpoint_index import INDEX_NAME, StoredTensor, index_checkpoint
from ggquant.errors import CheckpointError, Error, UnsupportedError, UsageError
from ggquant.export.description import quantization_config
from ggquant.export.folder import Entry, ShardWriter, new_folder
from ggquant.export.from_gguf import BlockWeights, block_weights
from ggquant.export.layouts import Codes, Part, check_zeros, float_bytes, parts, scale_type
from ggquant.export.modules import Linear, StoredWeights, split_names
from ggquant.export.scheme import Layout, Method, Scheme, check, obstacle
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
        how: "rounded to nearest", "exact" (the codes and scales of the source), or "re-quantized: ..." with the reason.
        max_error: largest difference between a weight and its value in the checkpoint; 0.0 where codes are kept.
    """

    name: str
    shape: tuple[int, int]
    bits: int
    group_size: int
    symmetric: bool
    how: str
    max_error: float


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
        warnings: what the user should know.
    """

    path: Path
    layout: str
    modules: list[ExportedModule]
    kept: list[str]
    total_bytes: int
    seconds: float
    warnings: list[str] = field(default_factory=list)


@dataclass
class _Planned:
    """A module with its tensors."""

    linear: Linear
    scheme: Scheme
    keep: bool
    why: str
    act_order: bool
    parts: list[Part]


def export_checkpoint(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    to: Layout,
    *,
    scheme: Scheme | None = None,
    method: Method | None = None,
    like: str | os.PathLike[str] | None = None,
    skip: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
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
        method: "rtn" rounds weights to the nearest point of their group's grid; "keep" takes over the codes and scales
            of packed weights or blocks, and refuses others. By default what the source allows.
        like: for a GGUF file, folder of a checkpoint of the same model, which gives names, shapes and configuration.
        skip: regular expression of modules to keep as they are, besides heads, routers and other modalities.
        max_shard_bytes: most bytes of tensors in a shard.
        overwrite: replace an existing checkpoint.
        threads: number of threads, by default one per core. It does not change the result.
        progress: called after each module, on the calling thread.

    Raises:
        UsageError: a layout, width or group size that do not go together.
        UnsupportedError: a module that the layout cannot hold, with the reason.
        CheckpointError, MalformedFileError, FileError: the source cannot be read, or the folder not be written.
    """
    started = time.monotonic()
    source, target = Path(src), Path(dst)
    folder_of_files = source if like is None else Path(like)
    if source.is_dir() != (like is None):
        raise UsageError(f"{source}: a GGUF file needs --like, a checkpoint of the same model; a folder needs none")
    config, stored, warnings = _open(folder_of_files)
    blocks = {} if like is None else block_weights(source, folder_of_files, stored)
    asked = scheme or Scheme(symmetric=to != "awq")
    check(to, asked)
    chosen, kept = split_names(stored.values(), skip)
    if not chosen:
        raise UnsupportedError(f"{source}: no linear layers to quantize", file=str(source))
    planned = {}
    for name in chosen:
        linear = _linear(stored[f"{name}.weight"], blocks.get(f"{name}.weight"))
        planned[name] = _plan(to, linear, asked, scheme is not None, method, threads)
    act_order = any(module.act_order for module in planned.values())
    entries = [entry for tensor in stored.values() for entry in _entries(tensor, planned)]
    schemes = {name: module.scheme for name, module in planned.items()}
    description = quantization_config(to, schemes, kept, act_order=act_order, method=method or "rtn")
    total = sum(entry.nbytes for entry in entries)
    made: list[ExportedModule] = []
    with new_folder(target, overwrite=overwrite) as folder:
        _copy_files(folder_of_files, folder)
        _write_json(folder / "config.json", {**_without_old(config), "quantization_config": description})
        if to in ("gptq", "gptq_v2"):
            _write_json(folder / "quantize_config.json", description)
        writer = ShardWriter(folder, entries, max_shard_bytes)
        done = 0
        try:
            for tensor in stored.values():
                module = planned.get(tensor.name.removesuffix(".weight"))
                if module is None:
                    for at, piece in _pieces(tensor, blocks.get(tensor.name), threads):
                        writer.write(tensor.name, piece, at)
                else:
                    made.append(_write(to, module, writer, threads))
                done += sum(entry.nbytes for entry in _entries(tensor, planned))
                if progress is not None:
                    spent = time.monotonic() - started
                    progress(Progress(tensor.name, to, len(made), len(planned), done, total, spent))
        finally:
            writer.close()
    return ExportReport(target, to, made, kept, total, time.monotonic() - started, warnings)


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


def _linear(tensor: StoredTensor, blocks: BlockWeights | None) -> Linear:
    rows, columns = tensor.shape
    dtype = tensor.dtype if tensor.packed is None else tensor.packed.scales.dtype
    name = tensor.name.removesuffix(".weight")
    return Linear(name, rows, columns, dtype, blocks if blocks is not None else StoredWeights(tensor))


def _plan(
    to: Layout, linear: Linear, asked: Scheme, insisted: bool, method: Method | None, threads: int | None
) -> _Planned:
    """Decides how a module is stored. Codes are looked at only where they are to be kept."""
    scheme, why, act_order = asked, "", False
    keep = False
    if method != "rtn" and linear.weights.is_quantized:
        found = _kept_scheme(to, linear, threads)
        if isinstance(found, str):
            why = found
        elif insisted and method is None and found[0] != asked:
            why = "another scheme is asked for"
        else:
            (scheme, act_order), keep = found, True
    if method == "keep" and not keep:
        reason = why or "it is not quantized yet"
        raise UnsupportedError(f"module {linear.name}: its codes cannot be kept: {reason}", tensor=linear.name)
    if reason := obstacle(to, scheme, linear.rows, linear.columns):
        raise UnsupportedError(f"module {linear.name}: {reason}; --skip keeps modules as they are", tensor=linear.name)
    scales = scale_type(to, linear.dtype)
    made = parts(to, scheme, linear.rows, linear.columns, scales, act_order=act_order, threads=threads)
    return _Planned(linear, scheme, keep, why, act_order, made)


def _kept_scheme(to: Layout, linear: Linear, threads: int | None) -> tuple[Scheme, bool] | str:
    """The scheme of packed weights, and whether they are in act-order; or why the layout cannot hold their codes."""
    found = linear.weights.codes(threads)
    if found is None:
        return "its weights are no integer codes with scales of rows"
    scheme, codes = found
    try:
        check(to, scheme)
        check_zeros(to, linear.name, codes)
    except Error as error:
        return str(error)
    if reason := obstacle(to, scheme, linear.rows, linear.columns):
        return reason
    if codes.listed is not None and to == "awq":
        return "awq has no act-order"
    if scale_type(to, linear.dtype) == "F16":
        with np.errstate(over="ignore"):
            if not np.array_equal(codes.scales.astype(np.float16).astype(np.float32), codes.scales):
                return "its scales are no f16 numbers"
    return scheme, codes.listed is not None


def _entries(tensor: StoredTensor, planned: dict[str, _Planned]) -> Iterator[Entry]:
    module = planned.get(tensor.name.removesuffix(".weight")) if tensor.name.endswith(".weight") else None
    if module is None:
        dtype = tensor.dtype if tensor.packed is None else tensor.packed.scales.dtype
        yield Entry(tensor.name, dtype, tensor.shape)
        return
    for part in module.parts:
        yield Entry(f"{module.linear.name}.{part.end}", part.dtype, part.shape)


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


def _write(to: Layout, module: _Planned, writer: ShardWriter, threads: int | None) -> ExportedModule:
    linear, scheme = module.linear, module.scheme
    error, how = 0.0, "exact"
    if module.keep:
        found = linear.weights.codes(threads)
        if found is None:
            raise UnsupportedError(f"module {linear.name} changed while it was read", tensor=linear.name)
        codes = found[1]
    else:
        codes, error = _rounded(to, module, threads)
        how = f"re-quantized: {module.why}" if module.why else "rounded to nearest"
    check_zeros(to, linear.name, codes)
    for part in module.parts:
        writer.write(f"{linear.name}.{part.end}", part.make(codes))
    shape = (linear.rows, linear.columns)
    return ExportedModule(linear.name, shape, scheme.bits, scheme.group_size, scheme.symmetric, how, error)


def _rounded(to: Layout, module: _Planned, threads: int | None) -> tuple[Codes, float]:
    """Codes by rounding to nearest, a band of rows at a time, and the largest error."""
    linear, scheme = module.linear, module.scheme
    rows, columns = linear.rows, linear.columns
    groups, group_len = scheme.groups(columns), scheme.group_len(columns)
    codes = np.empty((rows, columns), np.uint8)
    scales, zeros = np.empty((rows, groups), np.float32), np.empty((rows, groups), np.uint8)
    kind, worst = scale_type(to, linear.dtype), 0.0
    step = max(1, _BAND // columns)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        values = linear.weights.values(first, last, threads)
        try:
            band, s, z = _native.round_to_nearest(
                values.reshape(-1), columns, scheme.bits, group_len, scheme.symmetric, kind, threads
            )
        except Error as error:
            raise type(error)(f"module {linear.name}, from row {first}: {error}", tensor=linear.name) from error
        codes[first:last] = band.reshape(-1, columns)
        scales[first:last], zeros[first:last] = s.reshape(-1, groups), z.reshape(-1, groups)
        worst = max(worst, _error(values, codes[first:last], scales[first:last], zeros[first:last], group_len))
    return Codes(codes, scales, zeros), worst


def _error(
    values: npt.NDArray[np.float32],
    codes: npt.NDArray[np.uint8],
    scales: npt.NDArray[np.float32],
    zeros: npt.NDArray[np.uint8],
    group_len: int,
) -> float:
    """Largest difference between weights and the values of their codes."""
    columns = values.shape[1]
    off = codes.astype(np.float32)
    off -= np.repeat(zeros.astype(np.float32), group_len, axis=1)[:, :columns]
    off *= np.repeat(scales, group_len, axis=1)[:, :columns]
    off -= values
    return float(max(off.max(initial=0.0), -off.min(initial=0.0)))


def _copy_files(source: Path, folder: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in _COPIED and path.name not in _MADE_ANEW:
            shutil.copyfile(path, folder / path.name)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

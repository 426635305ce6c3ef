"""What `ggquant inspect` says of a checkpoint's folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from ggquant.bounded_json import read_object
from ggquant.checkpoint_index import StoredTensor, index_checkpoint
from ggquant.cli import render
from ggquant.cli.outcome import say_warning
from ggquant.cli.text import printable, size
from ggquant.errors import UnsupportedError
from ggquant.packed.checkpoint import quantization_of, unpacked

_ITEM_BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "I16": 16}


def inspect_checkpoint(source: Path, *, tensors: bool, metadata: bool, json_output: bool) -> None:
    """Prints a checkpoint's configuration and tensors, packed matrices as one tensor each.

    Raises:
        CheckpointError, FileError, MalformedFileError: it cannot be read.
    """
    folder = source if source.is_dir() else source.parent
    path = folder / "config.json"
    config = read_object(path) if path.is_file() else {}
    stored, warnings = index_checkpoint(source), list[str]()
    quantization = quantization_of(config, path)
    if quantization is not None:
        try:
            stored = unpacked(stored, quantization, warnings)
        except UnsupportedError as error:
            warnings.append(str(error))
    for warning in warnings:
        say_warning(warning)
    if json_output:
        facts: dict[str, Any] = {"config": config} if metadata else {}
        if tensors:
            facts["tensors"] = [_facts(tensor) for tensor in stored.values()]
        print(json.dumps(facts, allow_nan=False))
        return
    out = render.console()
    method = f", quantized: {printable(quantization.method)}" if quantization is not None else ""
    print(f"{printable(str(source))}: checkpoint, {len({t.file for t in stored.values()})} files{method}")
    if metadata:
        out.print()
        out.print(render.metadata_table({key: _text(value) for key, value in config.items()}))
    if tensors:
        out.print()
        out.print(_table(stored.values()))
    weights, nbytes = sum(prod(t.shape) for t in stored.values()), sum(map(_nbytes, stored.values()))
    bits = f", {8 * nbytes / weights:.3f} bits per weight" if weights else ""
    print(f"\n{len(stored)} tensors, {weights:,} weights, {size(nbytes)}{bits}")


def _table(tensors: Iterable[StoredTensor]) -> Any:
    rows = []
    for tensor in tensors:
        facts = _facts(tensor)
        kind = (facts["format"], str(facts.get("group_size", "")), facts.get("grid", ""))
        rows.append((tensor.name, render.shape(tensor.shape), *kind, size(facts["bytes"])))
    columns = ("tensor", "shape", "format", "group", "grid", "size")
    return render.table(columns, rows, right=("shape", "group", "size"))


def _facts(tensor: StoredTensor) -> dict[str, Any]:
    packed = tensor.packed
    facts: dict[str, Any] = {"name": tensor.name, "shape": list(tensor.shape), "bytes": _nbytes(tensor)}
    if packed is None:
        return {**facts, "format": tensor.dtype}
    symmetric = packed.coding == "float" or packed.zero == 1 << packed.bits - 1
    order = ", act-order" if packed.listed is not None else ""
    return {
        **facts,
        "format": packed.label,
        "bits": packed.bits,
        "group_size": -1 if packed.groups == 1 else packed.group_len if packed.listed is None else "listed",
        "grid": f"{'sym' if symmetric else 'asym'}{order}",
        "scales": packed.scales.dtype,
    }


def _nbytes(tensor: StoredTensor) -> int:
    if tensor.packed is not None:
        return tensor.packed.nbytes
    return prod(tensor.shape) * _ITEM_BITS.get(tensor.dtype, 8) // 8


def _text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, Mapping | list) else value

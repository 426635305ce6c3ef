"""The layouts of compressed-tensors, and the FP8 layouts that look like them.

Packed integers: `weight_packed` I32 `[O, ceil(I * b / 32)]`, `weight_scale` `[O, G]`, `weight_shape` I64 `[2]`, and
where there are zero points `weight_zero_point` I32 `[ceil(O * b / 32), G]`; everything is stored with half the range
added. Older versions of the package put as many codes into a word as fit. Bytes: `weight` I8 or F8 `[O, I]` and
`weight_scale`, or `weight_scale_inv`, with one scale for the tensor, a row, a group of inputs, or a block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import ceil, prod
from pathlib import Path
from typing import Any

from ggquant.checkpoint_index import StoredTensor
from ggquant.errors import UnsupportedError
from ggquant.model import PackedMatrix, View
from ggquant.packed.parts import group_list, line_view, rows_view, values, within, wrong

#: What the names of a packed module's parts end with.
PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")

_FLOATS = ("F16", "BF16", "F32")


def weight_args(quantization: Mapping[str, Any], module: str) -> dict[str, Any]:
    """How the weights of a module are quantized: the group of the configuration that names it, or its class."""
    groups = quantization.get("config_groups")
    by_class: dict[str, Any] = {}
    for group in groups.values() if isinstance(groups, dict) else ():
        args = group.get("weights") if isinstance(group, dict) else None
        targets = group.get("targets") if isinstance(group, dict) else None
        if not isinstance(args, dict) or not isinstance(targets, list):
            continue
        for target in targets:
            if not isinstance(target, str):
                continue
            if target.startswith("re:"):
                try:
                    named = re.match(target[3:], module) is not None
                except re.error:
                    named = False
            else:
                named = module == target or module.endswith(f".{target}")
            if named:
                return args
            by_class = by_class or args  # a class, such as "Linear"; every packed module is of one
    return by_class


def packed_matrix(
    path: Path, module: str, parts: Mapping[str, StoredTensor], args: Mapping[str, Any]
) -> tuple[PackedMatrix, tuple[int, ...]]:
    """Puts the parts of a module of packed integers together; also gives the shape of its weights.

    Raises:
        CheckpointError: they do not fit together.
        UnsupportedError: codes that are no integers.
    """
    codes, scales, shape = parts["weight_packed"], parts["weight_scale"], parts["weight_shape"]
    if codes.dtype != "I32" or args.get("type", "int") != "int":
        raise UnsupportedError(
            f"{path}: module {module}: packed floats (FP4) are not read; convert the original model instead",
            file=str(path),
        )
    if shape.dtype != "I64" or len(shape.shape) != 1 or not 2 <= shape.shape[0] <= 3:
        raise wrong(shape, f"a {shape.dtype} tensor of shape {shape.shape} is no shape of weights")
    dims = tuple(int(n) for n in values(shape))
    columns, rows, words = dims[-1], prod(dims[:-1]), codes.shape[-1]
    bits = args.get("num_bits")
    if min(dims) <= 0 or prod(codes.shape[:-1]) != rows or not isinstance(bits, int) or not 1 <= bits <= 8:
        raise within(path, module, f"codes of shape {codes.shape} and {bits} bits do not make weights of shape {dims}")
    if words == ceil(columns * bits / 32):
        coding = "dense"
    elif words == ceil(columns / (32 // bits)):
        coding = "aligned"
    else:
        raise within(path, module, f"{words} words do not hold {columns} codes of {bits} bits")
    if scales.dtype not in _FLOATS or prod(scales.shape) % rows:
        raise wrong(scales, f"{scales.dtype} scales of shape {scales.shape} do not go with weights of shape {dims}")
    groups = prod(scales.shape) // rows
    stated = args.get("group_size")
    group_len = stated if isinstance(stated, int) and stated > 0 and groups > 1 else ceil(columns / groups)
    if ceil(columns / group_len) != groups:
        raise within(path, module, f"{groups} groups of {group_len} do not make rows of {columns}")
    listed = parts.get("weight_g_idx")
    scattered = listed is not None and group_list(listed, columns, groups, group_len)
    zeros = parts.get("weight_zero_point")
    if zeros is None and args.get("symmetric") is False:
        raise within(path, module, "it is not symmetric, and its zero points are missing")
    per_word = 32 // bits
    if zeros is not None:
        lines = ceil(dims[-2] * bits / 32) if coding == "dense" else ceil(dims[-2] / per_word)
        if zeros.dtype != "I32" or prod(zeros.shape) != prod(dims[:-2]) * lines * groups:
            raise wrong(zeros, f"{zeros.dtype} zero points of shape {zeros.shape} do not go with {rows} rows")
        if len(dims) > 2 and lines * 32 != dims[-2] * bits:
            raise UnsupportedError(f"{path}: module {module}: stacked zero points that leave bits over are not read")
    made = PackedMatrix(
        scheme="compressed-tensors",
        rows=rows,
        columns=columns,
        coding=coding,
        bits=bits,
        codes=rows_view(codes, (rows, words)),
        scales=rows_view(scales, (rows, groups)),
        zero=1 << bits - 1 if zeros is None else None,
        zeros=rows_view(zeros, (prod(zeros.shape) // groups, groups)) if zeros is not None else None,
        zero_coding=coding,
        group_len=group_len,
        listed=line_view(listed) if scattered and listed is not None else None,
    )
    return made, dims


def byte_matrix(
    path: Path,
    module: str,
    weight: StoredTensor,
    scale: StoredTensor,
    zeros: StoredTensor | None,
    block: tuple[int, int] | None,
) -> PackedMatrix:
    """Puts a matrix of bytes (integers or 8-bit floats) together with its scales.

    Args:
        block: outputs and inputs of a block that shares a scale, where the configuration says so.

    Raises:
        CheckpointError: they do not fit together.
    """
    rows, columns = prod(weight.shape[:-1]), weight.shape[-1]
    if scale.dtype not in _FLOATS:
        raise wrong(scale, f"{scale.dtype} scales are not read")
    rows_per_scale, groups = _scale_shape(path, module, weight, scale, block)
    if block is not None and rows_per_scale == block[0] and groups == ceil(columns / block[1]):
        group_len = block[1]
    elif columns % groups == 0:
        group_len = columns // groups
    else:
        raise within(path, module, f"{groups} groups do not divide {columns} inputs")
    is_integer = weight.dtype == "I8"
    if zeros is not None and (zeros.dtype != "I8" or prod(zeros.shape) != prod(scale.shape) or not is_integer):
        raise wrong(zeros, f"{zeros.dtype} zero points of shape {zeros.shape} do not go with the scales")
    lines = ceil(rows / rows_per_scale)
    return PackedMatrix(
        scheme="int8" if is_integer else "FP8",
        rows=rows,
        columns=columns,
        coding="signed" if is_integer else "float",
        bits=8,
        codes=rows_view(weight, (rows, columns)),
        scales=_as_matrix(scale, lines, groups),
        rows_per_scale=rows_per_scale,
        zero=(128 if is_integer else 0) if zeros is None else None,
        zeros=_as_matrix(zeros, lines, groups) if zeros is not None else None,
        zero_coding="signed",
        group_len=group_len,
    )


def _scale_shape(
    path: Path, module: str, weight: StoredTensor, scale: StoredTensor, block: tuple[int, int] | None
) -> tuple[int, int]:
    """Outputs that share a scale, and groups of inputs."""
    rows, columns = prod(weight.shape[:-1]), weight.shape[-1]
    count = prod(scale.shape)
    if count == 1:
        return rows, 1
    if block is not None:
        lines, groups = ceil(weight.shape[-2] / block[0]), ceil(columns / block[1])
        stacked = prod(weight.shape[:-2])
        if count == stacked * lines * groups and (stacked == 1 or weight.shape[-2] % block[0] == 0):
            return block[0], groups
    if count % rows == 0 and (scale.shape[0] == weight.shape[0]):
        return 1, count // rows
    if len(weight.shape) == 3 and scale.shape[0] == weight.shape[0] == count:
        return weight.shape[1], 1
    raise within(path, module, f"scales of shape {scale.shape} do not go with weights of shape {weight.shape}")


def _as_matrix(tensor: StoredTensor, rows: int, columns: int) -> View:
    return View(tensor.file, tensor.offset, tensor.dtype, (rows, columns), (columns, 1))

"""Checkpoints whose weights are 8 bits wide with scales in tensors of their own: which scale belongs to which weights.

`fp8` as DeepSeek and Qwen keep it (`weight_scale_inv`, a scale for each block of 128 x 128) and Mistral
(`qscale_weight`), `fbgemm_fp8` (`weight_scale`, one for each row), compressed-tensors' `float-quantized`,
`int-quantized` and `naive-quantized`, and modelopt's FP8. A weight is the stored number times its scale, in float32.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ggquant.checkpoint_index import Scale, StoredTensor
from ggquant.errors import CheckpointError, UnsupportedError

_BYTES = ("F8_E4M3", "F8_E5M2", "I8")
_SCALES = ("F32", "BF16", "F16")
_SUFFIXES = {
    "fp8": (("_scale_inv", ""), (".qscale_weight", ".weight")),
    "fbgemm_fp8": ((".weight_scale", ".weight"),),
    "compressed-tensors": ((".weight_scale", ".weight"),),
    "modelopt": ((".weight_scale", ".weight"),),
}
SCALED = tuple(_SUFFIXES)
"""The `quant_method`s that are read here."""

_UNUSED = re.compile(r".*([._]activation_scale|\.input_scale(_ub)?|\.qscale_act|\.[kv]_scale)")
_COMPRESSED = ("float-quantized", "int-quantized", "naive-quantized")


def join_scales(stored: dict[str, StoredTensor], quantization: Any, path: Path) -> dict[str, StoredTensor]:
    """The checkpoint with scales attached to the weights that they are for, and off the list themselves.

    Args:
        stored: the checkpoint, in file order.
        quantization: `quantization_config` of config.json, or None.
        path: that file, for messages.

    Raises:
        CheckpointError: a scale without weights, or one that does not fit them.
        UnsupportedError: weights that are packed in another way.
    """
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method not in _SUFFIXES:
        return stored
    _refuse_others(quantization, path)
    block = _block(quantization, path)
    joined = dict(stored)
    for name, scale in stored.items():
        weight = next((name[: -len(old)] + new for old, new in _SUFFIXES[method] if name.endswith(old)), None)
        if weight is not None:
            if weight not in stored:
                raise CheckpointError(f"{scale.file}: {name} has no {weight} beside it", file=scale.file, tensor=name)
            joined[weight] = replace(joined[weight], scale=_scale(stored[weight], scale, block))
        if weight is not None or _UNUSED.fullmatch(name):
            del joined[name]
    return joined


def _refuse_others(quantization: dict[str, Any], path: Path) -> None:
    method = quantization["quant_method"]
    kind = quantization.get("format")
    groups = quantization.get("config_groups")
    if method == "compressed-tensors":
        if kind not in _COMPRESSED:
            raise _packed(path, f"{method}, {kind}")
        weights = [g.get("weights") for g in groups.values()] if isinstance(groups, dict) else []
        if not all(isinstance(w, dict) and w.get("group_size") is None and w.get("symmetric", True) for w in weights):
            raise _packed(path, f"{method}, {kind} in groups or with zero points")
    elif method == "modelopt" and quantization.get("quant_algo") != "FP8":
        raise _packed(path, f"{method}, {quantization.get('quant_algo')}")


def _packed(path: Path, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{path}: these weights are already quantized ({what}); convert the original model instead", file=str(path)
    )


def _block(quantization: dict[str, Any], path: Path) -> tuple[int, ...] | None:
    """The block that shares a scale, where the configuration names one."""
    sizes = quantization.get("weight_block_size")
    groups = quantization.get("config_groups")
    if isinstance(groups, dict) and len(groups) == 1:
        weights = next(iter(groups.values())).get("weights")
        sizes = weights.get("block_structure") if isinstance(weights, dict) else None
    if sizes is None:
        return None
    if not isinstance(sizes, list) or not sizes or not all(type(n) is int and n > 0 for n in sizes):
        raise CheckpointError(f"{path}: {sizes!r} is not the size of a block", file=str(path))
    return tuple(sizes)


def _scale(weight: StoredTensor, scale: StoredTensor, block: tuple[int, ...] | None) -> Scale:
    if weight.dtype not in _BYTES or scale.dtype not in _SCALES:
        raise CheckpointError(
            f"{scale.file}: {scale.name} ({scale.dtype}) is no scale for {weight.name} ({weight.dtype})",
            file=scale.file,
            tensor=weight.name,
        )
    tile = _tile(weight.shape, scale.shape, block)
    if tile is None:
        raise CheckpointError(
            f"{scale.file}: {scale.name} of shape {scale.shape} does not fit {weight.name} of shape {weight.shape}"
            + (f" in blocks of {block}" if block else ""),
            file=scale.file,
            tensor=weight.name,
        )
    return Scale(scale.file, scale.offset, scale.dtype, tile)


def _tile(shape: tuple[int, ...], scales: tuple[int, ...], block: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """How many elements along each axis share a scale; scales with fewer axes lack the last ones."""
    scales = (*scales, *[1] * (len(shape) - len(scales)))
    if len(scales) != len(shape):
        return None
    sizes = (*[1] * (len(shape) - len(block)), *block) if block is not None and len(block) <= len(shape) else None
    if sizes is not None and all(-(-n // size) == count for n, size, count in zip(shape, sizes, scales, strict=True)):
        return sizes
    tile = tuple(1 if count == n else n for n, count in zip(shape, scales, strict=True))
    fits = all(count in (1, n) for n, count in zip(shape, scales, strict=True))
    return tile if fits and block is None else None

"""Which kind of packed checkpoint this is, and its tensors with every packed matrix in the place of its parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggquant.bounded_json import read_object
from ggquant.checkpoint_index import StoredTensor
from ggquant.errors import UnsupportedError
from ggquant.model import PackedMatrix
from ggquant.packed import awq, compressed_tensors, gptq
from ggquant.packed.parts import within, wrong

_BYTES = ("I8", "F8_E4M3", "F8_E5M2")

#: Scales of activations and of the KV cache: a GGUF file has no place for them, and inference in it does without.
_ACTIVATION_SCALES = re.compile(
    r".*\.(input_scale|output_scale|activation_scale|input_zero_point|output_zero_point|[kv]_scale|input_global_scale)"
)

_QLINEAR = ("gptq", "awq", "auto-round", "intel/auto-round")
_SCALED = ("compressed-tensors", "fp8", "fbgemm_fp8")


@dataclass(frozen=True, slots=True)
class Quantization:
    """A checkpoint's account of how it is quantized: the method's name, all of its entries, and where it was found."""

    method: str
    entries: Mapping[str, Any]
    path: Path


def quantization_of(values: Mapping[str, Any], path: Path) -> Quantization | None:
    """The account in config.json, or in the file beside it that older checkpoints have."""
    for key in ("quantization_config", "compression_config"):
        found = values.get(key)
        if isinstance(found, dict):
            return Quantization(_method(found), found, path)
    for name, method in (("quantize_config.json", "gptq"), ("quant_config.json", "awq")):
        beside = path.parent / name
        if beside.is_file():
            found = read_object(beside)
            return Quantization(_method(found) or method, found, beside)
    return None


def _method(entries: Mapping[str, Any]) -> str:
    method = entries.get("quant_method", entries.get("method", ""))
    return method.lower() if isinstance(method, str) else ""


def unpacked(
    stored: Mapping[str, StoredTensor], quantization: Quantization, warnings: list[str]
) -> dict[str, StoredTensor]:
    """The checkpoint's tensors, in their order, with one in the place of the parts of each packed matrix.

    Args:
        stored: what the files hold.
        quantization: the checkpoint's account of it.
        warnings: gets a line where data and account disagree, and where something is left out.

    Raises:
        UnsupportedError: a method or layout that is not read.
        CheckpointError: parts that are missing or do not fit together.
    """
    if quantization.method in _QLINEAR:
        return _qlinear(stored, quantization, warnings)
    if quantization.method in _SCALED:
        return _scaled(stored, quantization, warnings)
    named = f"'{quantization.method}'" if quantization.method else "by a method that is not named"
    raise UnsupportedError(
        f"{quantization.path}: these weights are quantized {named}; GPTQ, AWQ, compressed-tensors, AutoRound and FP8 "
        "checkpoints are read; convert the original model instead",
        file=str(quantization.path),
    )


def _qlinear(
    stored: Mapping[str, StoredTensor], quantization: Quantization, warnings: list[str]
) -> dict[str, StoredTensor]:
    entries = quantization.entries
    version = _version(quantization)
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        module, _, part = name.rpartition(".")
        if part not in gptq.PARTS or f"{module}.qweight" not in stored:
            tensors[name] = tensor
            continue
        if part != "qweight":
            continue
        parts = {end: stored[f"{module}.{end}"] for end in gptq.PARTS if f"{module}.{end}" in stored}
        if missing := {"qzeros", "scales"} - parts.keys():
            raise within(quantization.path, module, f"part {min(missing)} is missing")
        if "g_idx" not in parts and awq.looks_like_awq(parts):
            made = awq.matrix(quantization.path, module, parts)
        else:
            facts = gptq.GptqFacts(
                version,
                _stated(entries, module, "bits", "w_bit"),
                _stated(entries, module, "group_size", "q_group_size"),
                entries.get("desc_act") is True,
                entries.get("sym") if isinstance(entries.get("sym"), bool) else None,
                quantization.method not in ("gptq", "awq"),
            )
            made = gptq.matrix(quantization.path, module, parts, facts, warnings)
        tensors[f"{module}.weight"] = _tensor(f"{module}.weight", made, (made.rows, made.columns))
    return tensors


def _version(quantization: Quantization) -> int:
    """1 or 2, where the checkpoint is packed as GPTQ does.

    Raises:
        UnsupportedError: a layout for one kernel only.
    """
    entries = quantization.entries
    if quantization.method in ("gptq", "awq"):
        stated = entries.get("checkpoint_format", entries.get("format", entries.get("version", "gptq")))
    else:
        stated = entries.get("packing_format", entries.get("backend", "auto_round"))
    text = str(stated).lower()
    known = {"gptq": 1, "gptq_v2": 2, "gemm": 1, "auto_round": 2}
    if quantization.method not in ("gptq", "awq"):
        base = text.removeprefix("auto_round:")
        known |= {"gptqmodel": 2, "auto_gptq": 1, "exllamav2": 2, "awq": 2, "auto_awq": 2}
        text = base
    if text not in known or entries.get("is_marlin_format"):
        raise UnsupportedError(
            f"{quantization.path}: weights packed as '{stated}' are not read; "
            "save the model in the gptq, gptq_v2 or gemm layout",
            file=str(quantization.path),
        )
    return known[text]


def _stated(entries: Mapping[str, Any], module: str, *keys: str) -> int | None:
    """What the configuration says of a module: AutoRound's exceptions, GPTQModel's, or what holds for all."""
    exceptions = entries.get("extra_config")
    own = exceptions.get(module) if isinstance(exceptions, dict) else None
    candidates = [own]
    dynamic = entries.get("dynamic")
    if isinstance(dynamic, dict):
        candidates += [value for pattern, value in dynamic.items() if _matches(pattern, module)]
    for candidate in (*candidates, entries):
        for key in keys:
            value = candidate.get(key) if isinstance(candidate, dict) else None
            # A width of 0 or 33 cannot be; what cannot be is not said.
            if isinstance(value, int) and (key.endswith("size") or 1 <= value <= 8):
                return value
    return None


def _matches(pattern: object, module: str) -> bool:
    try:
        return isinstance(pattern, str) and re.match(pattern.removeprefix("+:"), module) is not None
    except re.error:
        return False


def _scaled(
    stored: Mapping[str, StoredTensor], quantization: Quantization, warnings: list[str]
) -> dict[str, StoredTensor]:
    path, entries = quantization.path, quantization.entries
    left_out = 0
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        module, _, part = name.rpartition(".")
        if _ACTIVATION_SCALES.fullmatch(name):
            left_out += 1
        elif part == "weight_packed":
            parts = {end: stored[f"{module}.{end}"] for end in compressed_tensors.PARTS if f"{module}.{end}" in stored}
            if missing := {"weight_scale", "weight_shape"} - parts.keys():
                if tensor.dtype == "U8":
                    raise UnsupportedError(f"{path}: module {module}: packed FP4 is not read", file=str(path))
                raise within(path, module, f"part {min(missing)} is missing")
            args = compressed_tensors.weight_args(entries, module)
            made, dims = compressed_tensors.packed_matrix(path, module, parts, args)
            tensors[f"{module}.weight"] = _tensor(f"{module}.weight", made, dims)
        elif part == "weight" and tensor.dtype in _BYTES:
            scale = stored.get(f"{module}.weight_scale", stored.get(f"{module}.weight_scale_inv"))
            if scale is None:
                raise wrong(tensor, f"{tensor.dtype} weights without a weight_scale")
            zeros = stored.get(f"{module}.weight_zero_point")
            made = compressed_tensors.byte_matrix(path, module, tensor, scale, zeros, _block(entries, module))
            tensors[name] = _tensor(name, made, tensor.shape)
        elif not (part in (*compressed_tensors.PARTS, "weight_scale_inv") and _has_weight(stored, module)):
            tensors[name] = tensor
    if left_out:
        warnings.append(f"{left_out} scales of activations are left out: GGUF files have no place for them")
    return tensors


def _has_weight(stored: Mapping[str, StoredTensor], module: str) -> bool:
    return f"{module}.weight_packed" in stored or f"{module}.weight" in stored


def _block(entries: Mapping[str, Any], module: str) -> tuple[int, int] | None:
    """Outputs and inputs that share a scale, where scales are given for blocks."""
    stated = entries.get("weight_block_size")
    if stated is None:
        stated = compressed_tensors.weight_args(entries, module).get("block_structure")
    if isinstance(stated, str):
        stated = [int(n) for n in stated.split("x") if n.isdecimal()]
    if isinstance(stated, list) and len(stated) == 2 and all(isinstance(n, int) and n > 0 for n in stated):
        return stated[0], stated[1]
    return None


def _tensor(name: str, made: PackedMatrix, shape: tuple[int, ...]) -> StoredTensor:
    return StoredTensor(name, made.codes.file, made.codes.offset, "F32", shape, made)

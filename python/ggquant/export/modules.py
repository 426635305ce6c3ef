"""The modules of a model: which of its tensors are weights of linear layers, and their values or codes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.checkpoint_index import StoredTensor
from ggquant.errors import FileError, MalformedFileError, UnsupportedError
from ggquant.export.layouts import Codes
from ggquant.export.scheme import Scheme
from ggquant.model import View
from ggquant.native_plan import native_packed, packed_values
from ggquant.sources import contiguous_strides

_FLOATS = ("F32", "F16", "BF16")

#: Weights of linear layers that loaders keep in full precision: heads, routers and gates of experts, and the modules of
#: other modalities and of multi-token prediction.
_KEPT = re.compile(
    r"(^|\.)(lm_head|score|classifier|embed_out)$"
    r"|\.(gate|router|shared_expert_gate|router\.layer)$"
    r"|(^|\.)(visual|vision\w*|audio\w*|mtp|multi_modal_projector|mm_projector|merger|patch_embed|resampler)(\.|$)"
)
_IN_LAYER = re.compile(r"(^|\.)(layers|h|blocks|block)\.\d+\.")
_NOT_LINEAR = re.compile(r"(^|\.)(embed_tokens|word_embeddings|wte|wpe|embeddings?|\w*norm\w*|ln_\w+)(\.|$)")

#: Conv1D layers of this family store weights input-first.
_INPUT_FIRST = re.compile(r"(^|\.)h\.\d+\.(attn|mlp)\.c_(attn|fc|proj)$")


class Weights(Protocol):
    """The weights of a module, `[rows, columns]`."""

    @property
    def is_quantized(self) -> bool:
        """Whether there is reason to ask for codes."""

    def values(self, first: int, last: int, threads: int | None) -> npt.NDArray[np.float32]:
        """Rows `first..last` as float32."""

    def codes(self, threads: int | None, scheme: Scheme | None = None) -> tuple[Scheme, Codes] | None:
        """The codes that the weights are made of, if they are: nothing is rounded.

        With a scheme, in just that one; None where they are not of it.
        """


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer.

    Attributes:
        name: name of the module.
        rows, columns: outputs and inputs.
        dtype: stored type of its weights, or the one to store them in.
    """

    name: str
    rows: int
    columns: int
    dtype: str
    weights: Weights


def split_names(tensors: Iterable[StoredTensor], skip: str | None) -> tuple[list[str], list[str]]:
    """Names of the modules to quantize, and of the linear modules to keep as they are.

    Args:
        tensors: what the checkpoint holds, packed matrices as one tensor.
        skip: regular expression of modules to keep besides.

    Raises:
        UnsupportedError: weights that are no modules of their own: stacked experts, input-first layers.
    """
    chosen: list[str] = []
    kept: list[str] = []
    wanted = re.compile(skip) if skip else None
    for tensor in tensors:
        module, _, end = tensor.name.rpartition(".")
        if wanted is not None and wanted.search(module or tensor.name):
            if len(tensor.shape) == 2 and end == "weight":
                kept.append(module)
            continue
        if len(tensor.shape) == 3 and tensor.dtype in _FLOATS and _IN_LAYER.search(tensor.name) and "expert" in module:
            raise UnsupportedError(
                f"tensor {tensor.name}: stacked experts are no modules of their own in this layout; "
                "--skip 'experts' keeps them as they are",
                tensor=tensor.name,
            )
        if end != "weight" or len(tensor.shape) != 2 or tensor.dtype not in _FLOATS or _NOT_LINEAR.search(module):
            continue
        if _INPUT_FIRST.search(module):
            raise UnsupportedError(
                f"tensor {tensor.name}: layers that store weights input-first (Conv1D) cannot be exported",
                tensor=tensor.name,
            )
        is_wanted = tensor.packed is not None or (_IN_LAYER.search(module) and not _KEPT.search(module))
        (chosen if is_wanted else kept).append(module)
    return chosen, kept


def nothing_to_quantize(tensors: Iterable[StoredTensor]) -> str:
    """Why no module of these tensors can be quantized."""
    inside = [tensor for tensor in tensors if _IN_LAYER.search(tensor.name) and len(tensor.shape) == 2]
    other = next((tensor for tensor in inside if tensor.packed is None and tensor.dtype not in _FLOATS), None)
    if other is not None:
        return (
            f"tensor {other.name} has {other.dtype} weights without scales; F32, F16 and BF16 weights can be quantized"
        )
    if inside:
        return "all linear layers are to be kept as they are (--skip)"
    return "there are no linear layers of a decoder ('layers.0.' and so on) in it"


#: Modules that servers load as one matrix, which has one width and one size of groups.
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj"), "w13": ("w1", "w3")}


def fused_apart(schemes: Mapping[str, Scheme], kept: Sequence[str]) -> list[str]:
    """Warnings about modules that servers load as one matrix and that are not quantized alike."""
    every: dict[str, Scheme | None] = {**dict.fromkeys(kept), **schemes}
    apart = []
    for module in every:
        parent, _, end = module.rpartition(".")
        for names in FUSED.values():
            if end != names[0]:
                continue
            own = {name: every[f"{parent}.{name}"] for name in names if f"{parent}.{name}" in every}
            if len(set(own.values())) > 1:
                apart.append(f"{parent}.{{{','.join(own)}}}")
    if not apart:
        return []
    more = f" and {len(apart) - 1} more" if len(apart) > 1 else ""
    return [
        f"{apart[0]}{more} are not quantized alike; servers such as vLLM load them as one matrix and will refuse them"
    ]


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Weights of a checkpoint: floats, or packed."""

    tensor: StoredTensor

    @property
    def is_quantized(self) -> bool:
        """Whether there is reason to ask for codes."""
        return self.tensor.packed is not None

    def values(self, first: int, last: int, threads: int | None) -> npt.NDArray[np.float32]:
        """Rows `first..last` as float32."""
        tensor = self.tensor
        if tensor.packed is not None:
            columns = tensor.shape[-1]
            view = self._view((last - first, columns), first * columns)
            return packed_values(view, threads).reshape(last - first, columns)
        return float_rows(tensor, first, last)

    def codes(self, threads: int | None, scheme: Scheme | None = None) -> tuple[Scheme, Codes] | None:
        """The codes of packed integers."""
        packed = self.tensor.packed
        if packed is None or packed.coding == "float" or packed.rows_per_scale != 1 or packed.bits == 1:
            return None
        rows, columns = self.tensor.shape
        view = self._view((rows, columns), 0)
        codes, scales, zeros = _native.packed_codes(native_packed(view), threads)
        groups = packed.groups
        group_size = -1 if groups == 1 else packed.group_len
        symmetric = packed.zero == 1 << packed.bits - 1
        listed = None
        if packed.listed is not None:
            listed = np.fromfile(packed.listed.file, "<i4", columns, offset=packed.listed.offset)
            group_size = -(-columns // groups)
        made = Codes(codes.reshape(rows, columns), scales.reshape(rows, groups), zeros.reshape(rows, groups), listed)
        own = Scheme(packed.bits, group_size, symmetric)
        return None if scheme is not None and not scheme.alike(own, columns) else (own, made)

    def _view(self, shape: tuple[int, int], start: int) -> View:
        tensor = self.tensor
        strides = contiguous_strides(shape)
        return View(tensor.file, tensor.offset, tensor.dtype, shape, strides, start, packed=tensor.packed)


def vector_values(tensor: StoredTensor) -> npt.NDArray[np.float32]:
    """A stored vector of floats, as float32."""
    return float_rows(tensor, 0, 1).reshape(-1)


def float_rows(tensor: StoredTensor, first: int, last: int) -> npt.NDArray[np.float32]:
    """Rows `first..last` of a stored matrix of floats, as float32."""
    columns = tensor.shape[-1]
    item = np.dtype({"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[tensor.dtype])
    count = (last - first) * columns
    try:
        found = np.fromfile(tensor.file, item, count, offset=tensor.offset + first * columns * item.itemsize)
    except OSError as error:
        raise FileError(f"{tensor.file}: {error.strerror}", file=tensor.file, errno=error.errno) from error
    if found.size != count:
        raise MalformedFileError(
            f"{tensor.file}: tensor {tensor.name} is cut short", file=tensor.file, tensor=tensor.name
        )
    if tensor.dtype == "BF16":
        found = (found.astype("<u4") << 16).view("<f4")
    return found.astype(np.float32, copy=False).reshape(last - first, columns)

"""Where transformers holds a model's weights otherwise than its checkpoints do."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ggquant.checkpoint_index import StoredTensor


@dataclass(frozen=True, slots=True)
class _Unstacked:
    """A stack of experts in memory that checkpoints keep as one tensor an expert.

    Attributes:
        parameter: pattern of the name in memory; group 1 is the layer's prefix.
        parts: names in the checkpoint of equal consecutive parts of each expert's rows, with `{x}` for the expert.
    """

    parameter: str
    parts: tuple[str, ...]


_UNSTACKED: dict[str, tuple[_Unstacked, ...]] = {
    "llama": (  # Mixtral: the only model of that architecture with experts
        _Unstacked(
            r"(.*)\.mlp\.experts\.gate_up_proj",
            ("block_sparse_moe.experts.{x}.w1.weight", "block_sparse_moe.experts.{x}.w3.weight"),
        ),
        _Unstacked(r"(.*)\.mlp\.experts\.down_proj", ("block_sparse_moe.experts.{x}.w2.weight",)),
    ),
}

_RENAMED: dict[str, tuple[tuple[str, str], ...]] = {
    "llama": ((r"(.*)\.mlp\.gate\.weight", r"\1.block_sparse_moe.gate.weight"),),
}


def checkpoint_tensors(arch: str, parameter: StoredTensor, itemsize: int) -> list[StoredTensor]:
    """The tensors of a checkpoint that a parameter holds, `offset` in bytes from the parameter's beginning.

    Args:
        arch: name of the architecture in GGUF.
        parameter: the parameter: its name in memory and its shape.
        itemsize: bytes of an element.
    """
    for entry in _UNSTACKED.get(arch, ()):
        match = re.fullmatch(entry.parameter, parameter.name)
        if match is None:
            continue
        experts, rows, columns = parameter.shape
        each = rows // len(entry.parts)
        return [
            replace(
                parameter,
                name=f"{match[1]}.{part.format(x=expert)}",
                offset=(expert * rows + number * each) * columns * itemsize,
                shape=(each, columns),
            )
            for expert in range(experts)
            for number, part in enumerate(entry.parts)
        ]
    for pattern, replacement in _RENAMED.get(arch, ()):
        if re.fullmatch(pattern, parameter.name):
            return [replace(parameter, name=re.sub(pattern, replacement, parameter.name))]
    return [parameter]

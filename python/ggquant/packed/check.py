"""Two forms of one model against each other, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggquant.errors import CheckpointError
from ggquant.packed.act_order import as_in
from ggquant.runtime.weights import as_float32, read_tensor
from ggquant.sources import load_model


@dataclass(frozen=True, slots=True)
class Comparison:
    """A tensor in both forms.

    Attributes:
        tensor: its GGUF name.
        forms: its types in both.
        equal: whether all values are equal.
        max_error: largest difference between two values.
        differing: how many values differ.
    """

    tensor: str
    forms: tuple[str, str]
    equal: bool
    max_error: float
    differing: int


def compare_values(
    first: Path, second: Path, *, pre: str | None = None, threads: int | None = None
) -> Iterator[Comparison]:
    """Compares the values of all tensors of two forms of a model: checkpoint folders, packed or not, or GGUF files.

    Values that are equal throughout mean equal codes, too, where both forms have the same scales. Where one form has
    inputs in act-order and the other has them put together, they are compared in the other's order.

    Args:
        pre: name of the pre-tokenizer of checkpoint folders, where it cannot be found out.

    Raises:
        CheckpointError: one form has a tensor that the other lacks, or in another shape.
    """
    forms = [load_model(path, pre=pre if path.is_dir() else None) for path in (first, second)]
    plain = [{tensor.name: tensor for tensor in form.tensors} for form in forms]
    named = [{t.name: t for t in as_in(forms[i], plain[1 - i])} for i in (0, 1)]
    for a, b, path in ((named[0], named[1], second), (named[1], named[0], first)):
        if missing := [name for name in a if name not in b]:
            raise CheckpointError(f"{path}: tensor {missing[0]} is missing", file=str(path), tensor=missing[0])
    for name, a_tensor in named[0].items():
        b_tensor = named[1][name]
        if a_tensor.elements != b_tensor.elements or a_tensor.shape[-1:] != b_tensor.shape[-1:]:
            raise CheckpointError(
                f"{second}: tensor {name} has shape {b_tensor.shape}, not {a_tensor.shape}", tensor=name
            )
        ours, theirs = (as_float32(read_tensor(tensor), threads).reshape(-1) for tensor in (a_tensor, b_tensor))
        differing = int(np.count_nonzero(ours != theirs))
        worst = float(np.abs(ours - theirs).max()) if differing else 0.0
        kinds = (a_tensor.label, b_tensor.label)
        yield Comparison(name, kinds, not differing, worst, differing)

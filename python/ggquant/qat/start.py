"""Begin a training at a calibrated solution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ggquant.errors import UnsupportedError, UsageError
from ggquant.gguf import GGUFFile
from ggquant.qat.kept import has_grid
from ggquant.qat.mapping import Piece
from ggquant.qat.prepare import control_of, convert, fakes, originals, prepare
from ggquant.qat.switches import describe, freeze_scales

if TYPE_CHECKING:
    import os


def ptq_then_qat(
    model: torch.nn.Module, solution: str | os.PathLike[str], variant: str = "Q4_K_M", **options: Any
) -> torch.nn.Module:
    """Puts a model under training that starts at the codes of a GGUF file, such as `quantize --method gptq` writes.

    The model takes the file's values as its weights and the file's scales for good, so that the first forward sees
    exactly what the file holds; training then moves codes, and with `learn_scales=True` scales too.
    `freeze_scales(model, False)` lets later searches find other scales.

    Args:
        model: the model that the file was made from, unquantized.
        solution: the file.
        variant: the variant that the file is of.
        options: further arguments of `prepare`.

    Raises:
        UsageError: the file is of another model or variant.
        UnsupportedError: a format whose codebooks hold vectors (IQ1, IQ2, IQ3): its codes cannot be kept.
        UsageError, ImatrixError, UnsupportedError: as `prepare`.
    """
    file = GGUFFile(solution)
    prepare(model, variant, **options)
    try:
        _check(model, file, str(solution))
        _take_over(model, file)
    except Exception:
        convert(model)
        raise
    if not control_of(model).learn_scales:
        freeze_scales(model)
    return model


def _check(model: torch.nn.Module, file: GGUFFile, path: str) -> None:
    quantized = {piece.tensor for fake in fakes(model).values() for piece in fake.pieces}
    for decision in describe(model):
        tensor = file.tensors.get(decision.name)
        found = None if tensor is None else (tensor.format, tensor.shape)
        if decision.name in quantized and found != (decision.format, decision.shape):
            raise UsageError(
                f"{path}: tensor '{decision.name}' should be {decision.format} of shape {decision.shape}, and is "
                f"{'missing' if found is None else f'{found[0]} of shape {found[1]}'}; give the file's own variant",
                file=path,
                tensor=decision.name,
            )
        if decision.name in quantized and not has_grid(decision.format):
            raise UnsupportedError(
                f"{path}: tensor '{decision.name}' is {decision.format}, whose codes cannot be kept in training",
                file=path,
                tensor=decision.name,
            )


def _take_over(model: torch.nn.Module, file: GGUFFile) -> None:
    found = fakes(model)
    pieces = [(name, piece) for name, fake in found.items() for piece in fake.pieces]
    parameters = originals(model)
    for name, piece in pieces:
        first = sum(other.rows for _, other in pieces if _before(other, piece))
        rows = file.tensors[piece.tensor].rows(first, first + piece.rows)
        weight = parameters[name]
        with torch.no_grad():
            piece.scatter(torch.from_numpy(rows.dequantize()).to(weight), weight)
        found[name].preset(piece, np.ascontiguousarray(rows.data).reshape(-1))


def _before(other: Piece, piece: Piece) -> bool:
    return other.tensor == piece.tensor and other.order < piece.order

"""Begin a training at a calibrated solution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ggquant.errors import UsageError
from ggquant.gguf import GGUFFile
from ggquant.qat.grids import any_grid
from ggquant.qat.mapping import Piece
from ggquant.qat.prepare import control_of, convert, fakes, originals, prepare
from ggquant.qat.switches import describe, freeze_scales

if TYPE_CHECKING:
    import os


def ptq_then_qat(
    model: torch.nn.Module,
    solution: str | os.PathLike[str],
    variant: str = "Q4_K_M",
    *,
    margin: float = 1.0,
    **options: Any,
) -> torch.nn.Module:
    """Puts a model under training that starts at the codes of a GGUF file, such as `quantize --method gptq` writes.

    The model takes the file's scales for good, and weights that have the file's codes on them, so that the first
    forward sees exactly what the file holds. Training then moves codes, and with `learn_scales=True` scales too.
    `freeze_scales(model, False)` lets later searches find other scales.

    With a `margin` below 1 a weight moves from its own value no further into the cell of its code than that, and has a
    shorter way to the next code. Close to 0, a calibrated solution does not last: the weights that it rounded the other
    way lie at the border, and the noise of the first steps takes them back.

    Args:
        model: the model that the file was made from, unquantized.
        solution: the file.
        variant: the variant that the file is of.
        margin: how far inside of their cells weights come to lie at least, as a share of the way from the border to the
            file's value, above 0 and at most 1. At 1 the model takes the file's values as its weights.
        options: further arguments of `prepare`.

    Raises:
        UsageError: the file is of another model or variant, or `margin` is out of range.
        UsageError, ImatrixError, UnsupportedError: as `prepare`.
    """
    if not 0 < margin <= 1:
        raise UsageError(f"margin {margin} must be above 0 and at most 1")
    file = GGUFFile(solution)
    prepare(model, variant, **options)
    try:
        _check(model, file, str(solution))
        _take_over(model, file, margin)
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


def _take_over(model: torch.nn.Module, file: GGUFFile, margin: float) -> None:
    found = fakes(model)
    pieces = [(name, piece) for name, fake in found.items() for piece in fake.pieces]
    parameters = originals(model)
    for name, piece in pieces:
        first = sum(other.rows for _, other in pieces if _before(other, piece))
        rows = file.tensors[piece.tensor].rows(first, first + piece.rows)
        weight = parameters[name]
        blocks = np.ascontiguousarray(rows.data).reshape(-1)
        with torch.no_grad():
            begun = _begin(piece, blocks, torch.from_numpy(rows.dequantize()).to(weight.device), weight, margin)
            piece.scatter(begun, weight)
        found[name].preset(piece, blocks)


def _begin(
    piece: Piece, blocks: npt.NDArray[np.uint8], values: torch.Tensor, weight: torch.Tensor, margin: float
) -> torch.Tensor:
    """A piece's rows of the weight, where they are rounded to the file's values; of the weight's type."""
    exact = values.to(weight)
    if margin == 1:
        return exact
    grid = any_grid(piece.format, blocks, piece.columns, weight.device)
    begun = grid.drawn_in(piece.gather(weight).float(), values, margin).to(weight)
    # 16-bit types may be too coarse for places between values, and lead across a border.
    return torch.where(grid.keeps(begun.float(), values), begun, exact)


def _before(other: Piece, piece: Piece) -> bool:
    return other.tensor == piece.tensor and other.order < piece.order

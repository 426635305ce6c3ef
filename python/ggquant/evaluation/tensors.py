"""Two files of one model, tensor by tensor: how far the weights of one are from those of the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod, sqrt
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.errors import CheckpointError, ImatrixError, ShapeError
from ggquant.evaluation.rows import row_chunks
from ggquant.imatrix import load_imatrix
from ggquant.packed.act_order import as_in
from ggquant.sources import load_model
from ggquant.tensor_types import tensor_bytes

if TYPE_CHECKING:
    import os

    from ggquant.imatrix import Imatrix
    from ggquant.model import SourceTensor

    Source = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """How far tensor b is from tensor a.

    Attributes:
        name: its name in GGUF.
        shape: rows first.
        formats: what a and b are stored as.
        bits_per_weight: stored bits per weight of b.
        weights: number of weights.
        norm: |a|, the root of the sum of squares.
        rmse: root of the mean square of a - b.
        relative_error: |a - b| / |a| (Frobenius); 0 where both are zero, infinite where only a is.
        cosine: a . b / (|a| |b|); 1 where both are zero.
        max_error: the largest |a - b|.
        weighted_error: relative error with every square weighted by the importance of its column; None without
            importances for the tensor.
    """

    name: str
    shape: tuple[int, ...]
    formats: tuple[str, str]
    bits_per_weight: float
    weights: int
    norm: float
    rmse: float
    relative_error: float
    cosine: float
    max_error: float
    weighted_error: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two files compared.

    Attributes:
        tensors: the tensors of both, in the order of a.
        only_in_a, only_in_b: names of the others.
        differing_shapes: tensors of both whose shapes differ, with the two shapes; they are not compared.
    """

    tensors: list[TensorDifference]
    only_in_a: list[str]
    only_in_b: list[str]
    differing_shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def relative_error(self) -> float:
        """|a - b| / |a| over all tensors together, where every weight counts alike."""
        return _ratio(sum(t.weights * t.rmse**2 for t in self.tensors), sum(t.norm**2 for t in self.tensors))


def compare(
    a: Source,
    b: Source,
    *,
    imatrix: Source | Imatrix | Mapping[str, npt.ArrayLike] | None = None,
    threads: int | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Comparison:
    """Compares the weights of two files of one model, as they are when dequantized.

    Args:
        a: the original: a checkpoint's folder or a GGUF file.
        b: what was made of it.
        imatrix: importances of the columns, for errors weighted by them.
        threads: number of threads, by default one per core. It does not change the result.
        progress: called with a tensor's name, and the weights done and in all.

    Raises:
        CheckpointError: the two have no tensor in common.
        ImatrixError: the importances are another model's.
        ShapeError, FileError, MalformedFileError, UnsupportedError: a tensor cannot be read.
    """
    matrix = load_imatrix(imatrix) if imatrix is not None else None
    models = [load_model(a), load_model(b)]
    plain = [{t.name: t for t in model.tensors} for model in models]
    ours, theirs = ({t.name: t for t in as_in(models[i], plain[1 - i])} for i in (0, 1))
    common = [name for name in ours if name in theirs]
    if not common:
        raise CheckpointError(f"{b}: none of its tensors is in {a}; these are different models", file=str(b))
    shapes = {n: (ours[n].shape, theirs[n].shape) for n in common if ours[n].shape != theirs[n].shape}
    pairs = [(ours[n], theirs[n]) for n in common if n not in shapes]
    done, total = 0, sum(t.elements for t, _ in pairs)
    compared = []
    for one, other in pairs:
        compared.append(_difference(one, other, _importance(one, matrix), threads))
        done += one.elements
        if progress is not None:
            progress(one.name, done, total)
    return Comparison(compared, [n for n in ours if n not in theirs], [n for n in theirs if n not in ours], shapes)


def _importance(tensor: SourceTensor, matrix: Imatrix | None) -> npt.NDArray[np.float32] | None:
    values = matrix.entries.get(tensor.name) if matrix is not None else None
    if matrix is None or values is None or len(tensor.shape) < 2:
        return None
    experts = tensor.shape[-3] if len(tensor.shape) > 2 else 1
    if values.size != experts * tensor.shape[-1]:
        raise ImatrixError(
            f"tensor '{tensor.name}': importance matrix has {values.size} values for it, but its shape {tensor.shape} "
            f"takes {experts * tensor.shape[-1]}; it was made for another model",
            file=matrix.file,
            tensor=tensor.name,
        )
    return values


def _difference(
    a: SourceTensor, b: SourceTensor, importance: npt.NDArray[np.float32] | None, threads: int | None
) -> TensorDifference:
    columns = a.shape[-1]
    rows_per_expert = a.shape[-2] if len(a.shape) > 1 else 1
    sums = np.zeros(6)
    largest, row = 0.0, 0
    for x, y in zip(row_chunks(a, threads), row_chunks(b, threads), strict=True):
        if x.shape != y.shape:
            raise ShapeError(f"tensor '{a.name}': {x.shape} and {y.shape} cannot be compared", tensor=a.name)
        *parts, top = _native.difference(
            x.reshape(-1), y.reshape(-1), columns, importance, rows_per_expert, row, threads
        )
        sums += parts
        largest = max(largest, top)
        row += len(x)
    aa, bb, ab, dd, weighted_aa, weighted_dd = sums.tolist()
    return TensorDifference(
        name=a.name,
        shape=a.shape,
        formats=(a.label, b.label),
        bits_per_weight=8 * (b.packed_bytes or tensor_bytes(b.shape, b.dtype)) / max(prod(b.shape), 1),
        weights=a.elements,
        norm=sqrt(aa),
        rmse=sqrt(dd / max(a.elements, 1)),
        relative_error=_ratio(dd, aa),
        cosine=ab / sqrt(aa * bb) if aa * bb > 0 else float(aa == bb),
        max_error=largest,
        weighted_error=_ratio(weighted_dd, weighted_aa) if importance is not None else None,
    )


def _ratio(error: float, norm: float) -> float:
    """The root of a quotient of two sums of squares."""
    if norm > 0:
        return sqrt(error / norm)
    return float("inf") if error > 0 else 0.0

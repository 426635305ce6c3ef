"""AWQ's scales for a model that becomes a GGUF file: found, folded in, and checked."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggquant.layerwise.folds import places
from ggquant.layerwise.options import LayerwiseOptions
from ggquant.layerwise.report import FoldReport, SolvedTensor, TensorReport
from ggquant.layerwise.scaled import as_solved, changed_tensors, check_same, find_scales, of_solved, scaled_model
from ggquant.layerwise.work import WorkFile
from ggquant.methods.awq import Rounding, row_losses
from ggquant.methods.solver import FactoredHessian, solver_formats
from ggquant.runtime import RunnableModel
from ggquant.runtime.weights import as_float32, read_tensor
from ggquant.tensor import QuantizedTensor, quantize

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Folded:
    """A model with scales, and what there is to say about them.

    Attributes:
        model: the same network, to be solved in the original's place.
        stored: its tensors that are not quantized and not what they were, as float32.
        reports: for every place where there are scales or could be.
    """

    model: RunnableModel
    stored: list[SolvedTensor]
    reports: list[FoldReport]


def fold_scales(
    model: RunnableModel,
    tokens: npt.NDArray[np.int64],
    formats: Mapping[str, str],
    changeable: Container[str],
    options: LayerwiseOptions,
    work: WorkFile,
    progress: Callable[[int, str], object],
) -> Folded:
    """Searches scales, folds them into the model, and makes sure that it still computes the same.

    Args:
        model: as it was.
        tokens: calibration tokens [n_chunks, n_ctx].
        formats: block format of each weight that is to be quantized, by GGUF name.
        changeable: names of the tensors that are stored as float32.
        options: with `gptq`, the best candidates are held against no scales by what the solver makes of them.
        work: keeps scales for a later run.
        progress: told the layer and the tensor that is next.

    Raises:
        NonFiniteError: activations overflow.
        Error: the model with scales is another network.
    """
    found = places(model, formats, changeable)
    storing = _GGUFStoring(formats, options)
    earlier, scales = of_solved(found, work.done), []
    for one in find_scales(model, tokens, found, storing, progress, earlier):
        if one.place.readers[0] not in earlier:
            work.add(as_solved(one))
        scales.append(one)
    scaled = scaled_model(model, scales, storing)
    check_same(model, scaled, tokens)
    stored = [
        _as_float32(tensor.name, as_float32(read_tensor(tensor)))
        for tensor in changed_tensors(scaled, model)
        if tensor.name not in formats
    ]
    impossible = [FoldReport(place.readers, "", None, 0.0, 0.0, place.reason) for place in found if place.reason]
    return Folded(scaled, stored, [*(one.report for one in scales), *impossible])


class _GGUFStoring:
    """Weights in blocks, everything else as float32."""

    def __init__(self, formats: Mapping[str, str], options: LayerwiseOptions) -> None:
        self._formats, self._options = formats, options

    def rounding(self, name: str) -> Rounding | None:
        format, threads = self._formats.get(name), self._options.threads
        if format is None:
            return None
        return lambda w, given: quantize(w, format, imatrix=given, threads=threads).dequantize(threads=threads)

    def judge(self, weights: Mapping[str, Floats], hessian: Floats) -> Callable[[Floats], float] | None:
        options = self._options
        if not options.gptq or any(self._formats[name] not in solver_formats() for name in weights):
            return None

        def loss(scales: Floats) -> float:
            factored = FactoredHessian(
                hessian / np.outer(scales, scales), damp=options.damp, act_order=options.act_order, effort="fast"
            )
            total = 0.0
            for name, w in weights.items():
                solved = factored.solve(w * scales, self._formats[name], threads=options.threads).tensor
                error = np.asarray(w - solved.dequantize(threads=options.threads) / scales, np.float32)
                total += float(row_losses(error, hessian, options.threads).sum())
            return total

        return loss

    def stored(self, name: str, values: Floats) -> Floats:
        return values.astype(np.float32)


def _as_float32(name: str, values: Floats) -> SolvedTensor:
    data = np.ascontiguousarray(values, dtype="<f4").reshape(-1).view(np.uint8)
    tensor = QuantizedTensor(data, "F32", values.shape)
    report = TensorReport(name, "F32", tensor.nbytes, 0.0, 0.0, 0.0, 0.0, 0.0, 0, "takes up scales")
    return SolvedTensor(name, tensor, None, report)

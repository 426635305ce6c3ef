"""The token embedding: a weight without an input, whose errors every layer reads."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from ggquant.errors import NonFiniteError
from ggquant.layerwise.finite import check_states, finite_weight
from ggquant.layerwise.report import SolvedTensor, TensorReport
from ggquant.linalg import gram
from ggquant.methods.awq import row_losses
from ggquant.methods.solver import Effort, FactoredHessian, solver_formats
from ggquant.runtime.model import RunnableModel
from ggquant.tensor import quantize

Floats = npt.NDArray[np.float32]

#: Chunks that are run to see how large the residual stream is at each layer.
_PROBE_CHUNKS = 4

_ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_qkv")
_FEED_FORWARD = ("ffn_gate", "ffn_up")


def reading_hessian(model: RunnableModel, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """How much an error of the residual stream moves what the layers make of it: [hidden, hidden].

    An error e of the stream reaches a weight W behind a norm with weights g as `W diag(g) e / rms`, so that what all of
    them make of it adds up to `e^T H e` with `H = sum diag(g) W^T W diag(g) / rms^2`.

    Args:
        model: the model as it was.
        tokens: calibration tokens, of which a few chunks are used.

    Raises:
        NonFiniteError: weights or activations that are not finite.
    """
    names = {tensor.name for tensor in model.source.tensors}
    hessian = np.zeros((model.hidden_size, model.hidden_size))
    h = model.embed(tokens[:_PROBE_CHUNKS])

    def add(norm: str, weights: tuple[str, ...], prefix: str) -> None:
        gain = np.ones(model.hidden_size)
        if f"{prefix}{norm}.weight" in names:
            gain = finite_weight(model, f"{prefix}{norm}.weight").astype(np.float64)
        for weight in weights:
            if f"{prefix}{weight}.weight" in names:
                w = finite_weight(model, f"{prefix}{weight}.weight") * gain.astype(np.float32)
                square = gram(w, model.threads)
                if not np.isfinite(square).all():
                    name = f"{prefix}{weight}.weight"
                    raise NonFiniteError(
                        f"{model.path}: tensor '{name}': the squares of its weights overflow in float32; the file is "
                        "damaged, or was made for other arithmetic",
                        file=model.path,
                        tensor=name,
                    )
                hessian[...] += square / max(float(np.square(h, dtype=np.float64).mean()), 1e-30)

    for layer in range(model.n_layer):
        prefix = f"blk.{layer}."
        add(model.graph.attention.norm, _ATTENTION, prefix)
        add(model.graph.feed_forward.norm, _FEED_FORWARD, prefix)
        model.block(layer)(h, out=h)
        check_states(model, h, layer)
    add("output_norm", ("output",), "")
    return hessian


def solve_embedding(
    model: RunnableModel,
    tokens: npt.NDArray[np.int64],
    format: str,
    effort: Effort,
    gradients: npt.NDArray[np.float64] | None = None,
    damp: float = 0.01,
) -> SolvedTensor:
    """The token embedding in a block format.

    Args:
        model: the model as it was.
        tokens: calibration tokens.
        format: the block format.
        effort: of the solver.
        gradients: second moment of the gradients of the predictions at the embedding's output, [hidden, hidden];
            without it, what the layers read of the rows takes its place.
        damp: added to the diagonal, relative to its mean.
    """
    name = "token_embd.weight"
    started = time.monotonic()
    w = finite_weight(model, name)
    hessian = reading_hessian(model, tokens) if gradients is None else gradients
    importance = np.asarray(np.diag(hessian), dtype=np.float32)
    if format in solver_formats():
        result = FactoredHessian(hessian, damp=damp, effort=effort).solve(w, format)
        tensor, weighted, solved = result.tensor, float(result.rounded.sum()), float(result.solved.sum())
    else:
        tensor = quantize(w, format, imatrix=importance)
        weighted = solved = _loss(w - tensor.dequantize(), hessian)
    plain = quantize(w, format, imatrix=np.ones(w.shape[1], np.float32))
    rounded = _loss(w - plain.dequantize(), hessian)
    seconds = time.monotonic() - started
    report = TensorReport(name, format, tensor.nbytes, rounded, weighted, solved, seconds, damp, 0)
    return SolvedTensor(name, tensor, None, report)


def _loss(error: Floats, hessian: npt.NDArray[np.float64]) -> float:
    return float(row_losses(error, hessian.astype(np.float32)).sum())

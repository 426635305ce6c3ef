"""What quantizing each tensor alone costs, in each of some formats."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.errors import UsageError
from ggquant.evaluation.states import first_scored, last_states, predictions, token_scores
from ggquant.evaluation.windows import open_predictor, text_chunks
from ggquant.imatrix import Imatrix, load_imatrix
from ggquant.overrides import TensorType
from ggquant.policy import ModelFacts, Options, choose, find_variant
from ggquant.registry import format_info
from ggquant.runtime import RunnableModel
from ggquant.runtime.linear import Arithmetic
from ggquant.runtime.memory import requirements
from ggquant.runtime.ops import Floats
from ggquant.runtime.weights import as_float32, read_tensor
from ggquant.tensor import QuantizedTensor, quantize
from ggquant.tensor_types import tensor_bytes

if TYPE_CHECKING:
    import os

    from ggquant.model import SourceTensor

    Source = str | os.PathLike[str]
    Report = Callable[[int, int, str], object]

#: Formats that are tried unless the caller says otherwise: those that variants are made of.
FORMATS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a tensor costs in a format.

    Attributes:
        nbytes: bytes of the tensor in this format.
        output_error: error of the output of the tensor's layer, relative to what the layer adds to its input
            (Frobenius norms); for the embedding, relative to it, for the output matrix, to the logits.
        kld: mean Kullback-Leibler divergence of the predictions, in nats; None if it was not asked for.
    """

    nbytes: int
    output_error: float
    kld: float | None


@dataclass(frozen=True, slots=True)
class TensorCosts:
    """What a tensor costs when it alone is quantized.

    Attributes:
        name: its name in GGUF.
        shape: rows first.
        formats: costs by format; formats that its rows do not divide into, or that need importances that are not
            there, are left out.
    """

    name: str
    shape: tuple[int, ...]
    formats: dict[str, Cost]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Costs of all tensors, in the order of the model's layers.

    Attributes:
        model: what was measured, as given.
        tensors: the costs.
        tokens: number of scored tokens.
        chunks, n_ctx: chunks of text and tokens in each.
        imatrix: the file of importances, or None.
        seconds: duration.
    """

    model: str
    tensors: list[TensorCosts]
    tokens: int
    chunks: int
    n_ctx: int
    imatrix: str | None
    seconds: float


def sensitivity(
    model: Source,
    text: Source | Sequence[Source],
    *,
    formats: Iterable[str] = FORMATS,
    tensors: Sequence[str] = (),
    imatrix: Source | Imatrix | Mapping[str, npt.ArrayLike] | None = None,
    divergence: bool = True,
    context: int = 512,
    chunks: int | None = 4,
    threads: int | None = None,
    memory: int | None = None,
    progress: Report | None = None,
) -> Sensitivity:
    """Quantizes one tensor at a time and measures what that alone does to the model.

    Args:
        model: a checkpoint's folder, or a GGUF file.
        text: text files.
        formats: block formats to try.
        tensors: patterns as of `--tensor-type`; only tensors in whose names one is found. All by default.
        imatrix: importances to quantize with.
        divergence: run the rest of the model for each tensor and format, to find the divergence of the predictions;
            without, the output of the tensor's own layer is all that is looked at, which is much faster.
        context, chunks: tokens in a chunk, and how many chunks to use at most.
        threads: number of threads, by default one per core. It does not change the result.
        memory: most bytes of memory to use; hidden states that do not fit go to a temporary file.
        progress: called with work done, work in all, and what is being done.

    Raises:
        UsageError: arguments that cannot be right, no such tensor, or a text that is too short.
        FileError, MalformedFileError, CheckpointError, UnsupportedError: the model cannot be run, and why.
    """
    started = time.monotonic()
    own = open_predictor(model, "float32", threads)
    cuts = text_chunks(own, text, context, chunks)
    matrix = load_imatrix(imatrix) if imatrix is not None else None
    wanted = _candidates(own, tensors)
    names = [format_info(name).name for name in formats]
    if not names:
        raise UsageError("no formats to try")
    limit = requirements(own, *cuts.tokens.shape, logits=True, budget=memory, copies=4).hidden_limit // 4
    study = _Study(own, cuts.inputs, cuts.tokens, names, matrix, limit, divergence=divergence)
    found = []
    for number, tensor in enumerate(wanted):
        if progress is not None:
            progress(number, len(wanted), tensor.name)
        found.append(study.costs(tensor))
    if progress is not None:
        progress(len(wanted), len(wanted), "")
    n_chunks, n_ctx = cuts.tokens.shape
    scored = n_chunks * (n_ctx - 1 - first_scored(n_ctx))
    file = matrix.file if matrix is not None else None
    return Sensitivity(str(model), found, scored, n_chunks, n_ctx, file, time.monotonic() - started)


def _candidates(model: RunnableModel, patterns: Sequence[str]) -> list[SourceTensor]:
    """Tensors that variants quantize, in the order of the layers."""
    source = model.source
    facts = ModelFacts.from_metadata(source.metadata, [t.name for t in source.tensors], arch=source.arch)
    headers = [(t.name, t.shape, t.dtype) for t in source.tensors]
    decisions = choose(facts, headers, find_variant("Q8_0"), imatrix=False, options=Options(allow_requantize=True))
    named = [TensorType(pattern, "F32") for pattern in patterns]
    chosen = [
        d.name for d in decisions if d.quantizable and (not named or any(pattern.matches(d.name) for pattern in named))
    ]
    if not chosen:
        raise UsageError(
            f"{model.path}: no tensor to quantize" + (f" is called {', '.join(patterns)}" if named else "")
        )
    by_name = {t.name: t for t in source.tensors}

    def place(name: str) -> int:
        layer = _layer(name)
        return layer if layer is not None else (-1 if name.startswith(("token_embd", "position_embd")) else 1 << 30)

    return [by_name[name] for name in sorted(chosen, key=place)]


def _layer(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blk" and len(parts) > 2 and parts[1].isdigit() else None


class _Study:
    """The undisturbed model at the layer that is being looked at, and what it predicts in the end."""

    def __init__(
        self,
        model: RunnableModel,
        inputs: npt.NDArray[np.int64],
        tokens: npt.NDArray[np.int64],
        formats: list[str],
        matrix: Imatrix | None,
        limit: int,
        *,
        divergence: bool,
    ) -> None:
        self._model, self._inputs, self._tokens = model, inputs, tokens
        self._formats, self._matrix, self._limit = formats, matrix, limit
        self._layer = -1
        self._states: Floats | None = None
        self._next: Floats | None = None
        self._last = last_states(model, inputs, limit, lambda work, what: None)
        self._packed = [
            _native.pack_logits(predictions(model, h), model.n_vocab, model.threads) for h in self._last
        ] if divergence else None  # fmt: skip

    def costs(self, tensor: SourceTensor) -> TensorCosts:
        """Costs of one tensor in every format that it can take. Layers must come in ascending order."""
        weights = read_tensor(tensor)
        found = {}
        for name, quantized in self._quantized(tensor, as_float32(weights, self._model.threads)):
            layer = _layer(tensor.name)
            measure = self._outer if layer is None else self._inner
            error, states, model = measure(tensor, quantized)
            kld = self._divergence(states, model, -1 if layer is None else layer)
            found[name] = Cost(tensor_bytes(tensor.shape, name), error, kld)
        return TensorCosts(tensor.name, tensor.shape, found)

    def _quantized(self, tensor: SourceTensor, weights: Floats) -> Iterator[tuple[str, QuantizedTensor]]:
        importance = self._matrix.entries.get(tensor.name) if self._matrix is not None else None
        shaped: Any = None
        if importance is not None:
            experts = tensor.shape[-3] if len(tensor.shape) > 2 else None
            shaped = importance if experts is None else importance.reshape(experts, -1)
        for name in self._formats:
            info = format_info(name)
            if info.row_bytes(tensor.shape[-1]) is None or (info.imatrix == "required" and shaped is None):
                continue
            yield name, quantize(weights, name, None if info.imatrix == "ignored" else shaped, self._model.threads)

    def _inner(self, tensor: SourceTensor, quantized: QuantizedTensor) -> tuple[float, Floats, RunnableModel]:
        """A tensor of a layer: the states after the layer."""
        h, after = self._advance(_layer(tensor.name) or 0)
        changed = self._model.block(self._layer, {tensor.name: quantized})(h)
        return _norm(changed - after) / max(_norm(after - h), 1e-30), changed, self._model

    def _outer(self, tensor: SourceTensor, quantized: QuantizedTensor) -> tuple[float, Floats, RunnableModel]:
        """A tensor outside the layers: the model with it changed, and the states that it begins or ends with."""
        data = np.ascontiguousarray(as_float32(quantized), "<f4").tobytes()
        changed = replace(tensor, dtype="F32", views=(), ops=(), inline=data)
        source = self._model.source
        tensors = [changed if t.name == tensor.name else t for t in source.tensors]
        model = RunnableModel(
            replace(source, tensors=tensors), self._model.path, Arithmetic("float32", self._model.threads)
        )
        if tensor.name == self._model.output_name and tensor.name != "token_embd.weight":
            before, after = predictions(self._model, self._last[0]), predictions(model, self._last[0])
            return _norm(after - before) / max(_norm(before), 1e-30), self._last, model
        before, after = self._model.embed(self._inputs), model.embed(self._inputs)
        return _norm(after - before) / max(_norm(before), 1e-30), after, model

    def _advance(self, layer: int) -> tuple[Floats, Floats]:
        """The undisturbed states before and after `layer`."""
        if self._states is None or self._next is None or layer != self._layer:
            h = self._next if self._next is not None else self._model.embed(self._inputs)
            for skipped in range(self._layer + 1, layer):
                h = self._model.block(skipped)(h)
            self._layer, self._states, self._next = layer, h, self._model.block(layer)(h)
        return self._states, self._next

    def _divergence(self, states: Floats, model: RunnableModel, layer: int) -> float | None:
        """Runs the layers after `layer`, and holds the predictions against the undisturbed model's."""
        if self._packed is None:
            return None
        h = states
        if states is not self._last:
            for following in range(layer + 1, model.n_layer):
                h = model.block(following)(h)
        total = 0.0
        for ids, state, packed in zip(self._tokens, h, self._packed, strict=True):
            scores = token_scores(predictions(model, state), ids, packed, model.threads)
            total += float(scores[:, 2].mean())
        return total / len(self._tokens)


def _norm(x: Floats) -> float:
    return sqrt(float(np.square(x, dtype=np.float64).sum()))

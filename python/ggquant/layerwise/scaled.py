"""A model with AWQ's scales: the same network, whose weights round better.

Scales are searched on the model as it was, before any weight is rounded, as the method's authors do. The scaled model
is never stored: its weights are multiplied when they are read, and its small tensors are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ggquant.errors import Error
from ggquant.layerwise.finite import finite_weight
from ggquant.layerwise.folds import Place
from ggquant.layerwise.inputs import Input, seen_through
from ggquant.layerwise.moments import Moments
from ggquant.layerwise.report import FoldReport, SolvedTensor, TensorReport
from ggquant.methods.awq import AWQScales, Rounding, search_scales
from ggquant.model import Factors, SourceTensor
from ggquant.runtime import RunnableModel
from ggquant.runtime.block import GROUP_TOKENS
from ggquant.runtime.linear import Arithmetic
from ggquant.runtime.weights import as_float32, read_tensor
from ggquant.tensor import QuantizedTensor

Floats = npt.NDArray[np.float32]

#: Tokens on which the scaled model is held against the original, and how far logits may be apart, relative to the
#: largest: products and norms are rounded to 24 bits, layer after layer.
_CHECKED_TOKENS, TOLERANCE = 64, 1e-4

#: Rounding can send a token to another expert where two of them score alike; so few tokens may differ.
_REROUTED = 0.05


class Storing(Protocol):
    """How the tensors of a model will be stored."""

    def rounding(self, name: str) -> Rounding | None:
        """What rounds rows of a weight; None for one that is not quantized."""

    def judge(self, weights: Mapping[str, Floats], hessian: Floats) -> Callable[[Floats], float] | None:
        """The loss of whole weights with given scales, under the Hessian of their unscaled input.

        None leaves it to rounding.
        """

    def stored(self, name: str, values: Floats) -> Floats:
        """A small tensor as it will read back."""


@dataclass(frozen=True)
class Scales:
    """What was found for a place.

    Attributes:
        place: where.
        scales: of the channels, float32 `[channels]`, or `[experts, channels]`.
        report: what they are good for.
    """

    place: Place
    scales: Floats
    report: FoldReport


def find_scales(
    model: RunnableModel,
    tokens: npt.NDArray[np.int64],
    found: Sequence[Place],
    storing: Storing,
    progress: Callable[[int, str], object],
    earlier: Mapping[str, Scales],
) -> Iterator[Scales]:
    """Searches the scales of all places that can have some, in the order of the forward pass.

    Args:
        model: as it was.
        tokens: calibration tokens [n_chunks, n_ctx].
        found: the places.
        storing: what weights are rounded to.
        progress: told the layer, and the tensor that is next.
        earlier: what an earlier run found, by the name of the first reader.

    Raises:
        NonFiniteError: activations overflow.
    """
    h = model.embed(tokens)
    for layer in range(model.n_layer + 1):
        own = [place for place in found if place.layer == layer and not place.reason]
        moments = _moments(model, layer, h, [place for place in own if place.readers[0] not in earlier])
        for place in own:
            progress(layer, place.readers[0])
            yield earlier.get(place.readers[0]) or _search(model, place, moments, storing)


def _moments(model: RunnableModel, layer: int, h: Floats, wanted: Sequence[Place]) -> dict[tuple[str, int], Moments]:
    """Moments of the inputs of places, by first reader and expert; `h` goes through the layer."""
    names = {place.readers[0] for place in wanted}
    moments: dict[tuple[str, int], Moments] = {}

    step = max(1, GROUP_TOKENS // h.shape[1])
    block = model.block(layer) if layer < model.n_layer else None

    def run(start: int) -> list[Input]:
        part = h[start : start + step]
        if block is None:
            return [Input(model.output_name, -1, model.normalized(part).reshape(-1, h.shape[2]))]
        return seen_through(block, part, names, out=part)

    def add(seen: list[Input]) -> None:
        for one in seen:
            empty = Moments(one.x.shape[1], cross=False, threads=model.threads)
            moments.setdefault((one.name, one.expert), empty).add(one.x)

    if block is not None or names:
        model.side_by_side(run, range(0, len(h), step), add)
    for (name, _), own in moments.items():
        own.check(name, model.path)
    return moments


def _search(model: RunnableModel, place: Place, moments: Mapping[tuple[str, int], Moments], storing: Storing) -> Scales:
    channel_of = place.channel_of
    if channel_of is None:
        raise AssertionError("a place without a reason has channels")
    rounding = {name: rounded for name in place.readers if (rounded := storing.rounding(name)) is not None}
    weights = {name: finite_weight(model, name) for name in rounding}
    results: list[AWQScales] = []
    for expert in range(max(place.experts, 1)):
        own = moments.get((place.readers[0], expert if place.experts else -1))
        if own is None:  # an expert without tokens
            results.append(AWQScales(np.ones(len(channel_of), np.float32), None, 0.0, 0.0))
            continue
        mean = (own.hessian / own.tokens).astype(np.float32)
        matrices = {n: w[expert] if place.experts else w.reshape(-1, w.shape[-1]) for n, w in weights.items()}
        results.append(
            search_scales(
                list(matrices.values()),
                mean,
                list(rounding.values()),
                judge=storing.judge(matrices, mean),
                channel_of=channel_of,
                threads=model.threads,
            )
        )
    first = np.unique(channel_of, return_index=True)[1]
    scales = np.stack([result.scales[first] for result in results])
    chosen = [result.exponents for result in results if result.exponents is not None]
    report = FoldReport(
        readers=place.readers,
        maker=place.maker,
        exponents=chosen[0] if len(chosen) == 1 else None,
        before=sum(result.before for result in results),
        after=sum(result.after for result in results),
        note="" if chosen else "no scales are better than none",
    )
    if place.experts and chosen:
        report = replace(report, note=f"scales for {len(chosen)} of {place.experts} experts")
    return Scales(place, scales if place.experts else scales[0], report)


def as_solved(found: Scales) -> SolvedTensor:
    """Scales as something a `WorkFile` can keep."""
    data = np.ascontiguousarray(found.scales, dtype="<f4").reshape(-1).view(np.uint8)
    name, report = _kept_name(found.place), found.report
    tensor = QuantizedTensor(data, "F32", found.scales.shape)
    note = json.dumps(asdict(report))
    kept = TensorReport(name, "F32", tensor.nbytes, report.before, report.before, report.after, 0.0, 0.0, 0, note)
    return SolvedTensor(name, tensor, None, kept)


def of_solved(found: Sequence[Place], kept: Mapping[str, SolvedTensor]) -> dict[str, Scales]:
    """The scales that an earlier run kept, by first reader."""
    scales = {}
    for place in found:
        one = kept.get(_kept_name(place))
        if one is not None:
            told = json.loads(one.report.note)
            exponents = None if told["exponents"] is None else tuple(told["exponents"])
            report = FoldReport(**{**told, "readers": tuple(told["readers"]), "exponents": exponents})
            scales[place.readers[0]] = Scales(place, one.tensor.dequantize(), report)
    return scales


def _kept_name(place: Place) -> str:
    return f"scales of {place.readers[0]}"


def scaled_model(model: RunnableModel, found: Sequence[Scales], storing: Storing) -> RunnableModel:
    """The model with scales folded in: the same network.

    A norm that is stored in fewer bits rounds the reciprocals; the weights then get exactly what makes up for them.
    """
    rows: dict[str, Floats] = {}
    columns: dict[str, Floats] = {}
    small: dict[str, Floats] = {}
    for one in found:
        place, scales = one.place, one.scales
        if place.channel_of is None or bool((scales == 1).all()):
            continue
        shape = model.tensor(place.maker).shape
        if len(shape) == 1:
            old = as_float32(read_tensor(model.tensor(place.maker)))
            new = storing.stored(place.maker, old / scales)
            usable = (new != 0) & np.isfinite(new) & (old != 0)
            small[place.maker] = np.where(usable, new, old)
            scales = np.divide(old, new, out=np.ones_like(old), where=usable)
        else:
            factor = np.ones(shape[:-1], np.float32)
            factor[..., place.first_row :] = 1 / scales
            rows[place.maker] = factor
        if place.bias:
            bias = as_float32(read_tensor(model.tensor(place.bias))).copy()
            bias[..., place.first_row :] /= scales
            small[place.bias] = storing.stored(place.bias, bias)
        for name in place.readers:
            columns[name] = np.ascontiguousarray(scales[..., place.channel_of])
    changed = {name: _inline(model.tensor(name), values) for name, values in small.items()}
    for name in {*rows, *columns}:
        tensor = model.tensor(name)
        factors = Factors(_bytes(rows.get(name)), _bytes(columns.get(name)))
        changed[name] = replace(tensor, factors=factors)
    tensors = [changed.get(tensor.name, tensor) for tensor in model.source.tensors]
    return RunnableModel(replace(model.source, tensors=tensors), model.path, Arithmetic(threads=model.threads))


def changed_tensors(scaled: RunnableModel, model: RunnableModel) -> list[SourceTensor]:
    """The tensors of the scaled model that are not the original's."""
    return [tensor for tensor in scaled.source.tensors if tensor != model.tensor(tensor.name)]


def check_same(model: RunnableModel, scaled: RunnableModel, tokens: npt.NDArray[np.int64]) -> float:
    """Holds the scaled model against the original on a few tokens, before anything is rounded.

    Returns:
        The largest distance of logits (of an encoder, of embeddings) relative to the largest magnitude.

    Raises:
        Error: they are not the same network.
    """
    some = tokens[:1, :_CHECKED_TOKENS]
    ours, theirs = (m.logits(m.forward(some)) if m.causal else m.normalized(m.forward(some)) for m in (scaled, model))
    apart = np.abs(ours - theirs).max(axis=-1).reshape(-1) / max(float(np.abs(theirs).max()), 1e-30)
    routed = any(name.endswith("ffn_gate_inp.weight") for name in (t.name for t in model.source.tensors))
    judged = np.quantile(apart, 1 - _REROUTED) if routed else apart.max()
    if not judged <= TOLERANCE:
        raise Error(
            f"{model.path}: with AWQ's scales folded in, logits are off by {judged:.1e} of the largest before anything "
            f"is rounded, more than {TOLERANCE:g}: architecture '{model.arch}' declares a fold that changes the "
            "network; use --method gptq",
            file=model.path,
        )
    return float(judged)


def _inline(tensor: SourceTensor, values: Floats) -> SourceTensor:
    data = values.astype("<f4").tobytes()
    return SourceTensor(name=tensor.name, shape=tensor.shape, dtype="F32", inline=data)


def _bytes(values: Floats | None) -> bytes | None:
    return None if values is None else values.astype("<f4").tobytes()

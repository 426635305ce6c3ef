"""The pass over a model: weights that share an input are solved together, and what comes after sees the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ggquant.layerwise.embedding import solve_embedding
from ggquant.layerwise.finite import finite_weight
from ggquant.layerwise.fisher import Fisher, collect_fisher
from ggquant.layerwise.hessians import HessianFile
from ggquant.layerwise.inputs import Input, Stage, inputs_of, seen_through, stages
from ggquant.layerwise.moments import Moments
from ggquant.layerwise.needs import KEPT_BYTES
from ggquant.layerwise.options import LayerwiseOptions
from ggquant.layerwise.report import SolvedTensor, TensorReport
from ggquant.layerwise.two_sided import solve_two_sided, two_sided_loss
from ggquant.methods.awq import row_losses
from ggquant.methods.clip import awq_clip
from ggquant.methods.solver import FactoredHessian, GPTQResult, solver_formats
from ggquant.model import SourceTensor
from ggquant.product import matmul
from ggquant.runtime import Block
from ggquant.runtime.block import GROUP_TOKENS
from ggquant.runtime.linear import Arithmetic
from ggquant.runtime.model import RunnableModel
from ggquant.tensor import QuantizedTensor, quantize

Floats = npt.NDArray[np.float32]

R = TypeVar("R")

#: Names of the weights whose output is added to the residual stream.
_ADDED = ("attn_output.weight", "ffn_down.weight")

#: An expert with fewer tokens than this share of its columns has no Hessian worth the name.
_ENOUGH_TOKENS = 0.25


@dataclass
class PassState:
    """Hidden states of all chunks: of the model as it was, and as it is by now.

    `replaced` holds the solved weights of the current layer, `inputs` those of the original layer's weights by group of
    chunks, where there is memory for them.
    """

    original: Floats
    current: Floats
    replaced: dict[str, Floats] = field(default_factory=dict)
    inputs: dict[str, list[Floats]] = field(default_factory=dict)


def solve_model(
    model: RunnableModel,
    tokens: npt.NDArray[np.int64],
    formats: Mapping[str, str],
    options: LayerwiseOptions,
    progress: Callable[[int, str], object] | None = None,
    earlier: Mapping[str, SolvedTensor] | None = None,
    hessians: HessianFile | None = None,
    gradients: Callable[[int, int], object] | None = None,
) -> Iterator[SolvedTensor]:
    """Solves the weights of a model, in the order of the forward pass.

    Args:
        model: the model as it was, in float32 arithmetic.
        tokens: calibration tokens [n_chunks, n_ctx].
        formats: block format of each weight that is to be solved, by GGUF name; others stay as they are.
        options: see `LayerwiseOptions`.
        progress: told the layer and the tensor that is next.
        earlier: what an earlier run solved, with the same arguments; given back in its place.
        hessians: Hessians to solve with, of the model as it was, so that nothing has to run; see
            `LayerwiseOptions.with_file`.
        gradients: told how many chunks have gone forward and back, and how many there are.

    Raises:
        NonFiniteError: activations overflow.
        UnsupportedError: a Hessian that no damping makes usable.
    """
    tell = progress or (lambda _layer, _name: None)
    yield from LayerPass(model, tokens, formats, options, tell, earlier or {}, hessians, gradients).run()


class LayerPass:
    """The pass of `solve_model`. What weights are solved into is decided in `_solve` and `_experts`."""

    def __init__(
        self,
        model: RunnableModel,
        tokens: npt.NDArray[np.int64],
        formats: Mapping[str, str],
        options: LayerwiseOptions,
        progress: Callable[[int, str], object],
        earlier: Mapping[str, SolvedTensor],
        hessians: HessianFile | None = None,
        gradients: Callable[[int, int], object] | None = None,
    ) -> None:
        self._model, self._tokens, self._formats = model, tokens, formats
        self._options, self._progress, self._earlier = options, progress, earlier
        self._stored, self._gradients = hessians, gradients
        self._step = max(1, GROUP_TOKENS // tokens.shape[1])
        plain = not any((half.out_norm or half.sum_norm) for half in (model.graph.attention, model.graph.feed_forward))
        self._fisher: dict[str, Fisher] = {}
        self._residual = options.residual if plain and model.hyper.number("residual_scale", 1.0) == 1 else 0.0
        self._corrects = replace(options, residual=self._residual).corrects

    def run(self) -> Iterator[SolvedTensor]:
        """The solved tensors, one after another."""
        model = self._model
        embedding = "token_embd.weight"
        if self._options.fisher and self._options.gptq:
            names = {name for name in self._formats if name not in self._earlier}
            if names:
                self._fisher = collect_fisher(model, self._tokens, names, self._options.seed, self._gradients)
        # With stored Hessians nothing runs through the layers.
        original = model.embed(self._tokens[: 1 if self._stored is not None else None])
        state = PassState(original, original)
        solves = self._options.gptq and embedding in self._formats and embedding not in self._options.rounded
        if solves and model.output_name != embedding:
            self._progress(-1, embedding)
            solved = self._earlier.get(embedding) or solve_embedding(
                model,
                self._tokens,
                self._formats[embedding],
                self._options.effort,
                self._fisher[embedding].parts[0] if embedding in self._fisher else None,
            )
            yield solved
            if self._options.sequential:
                state.current = _with_embedding(model, solved.tensor).embed(self._tokens)
        for layer in range(model.n_layer):
            yield from self._layer(layer, state)
        yield from self._output(state)

    def _layer(self, layer: int, state: PassState) -> Iterator[SolvedTensor]:
        model = self._model
        block = model.block(layer)
        state.replaced, state.inputs = {}, {}
        if self._stored is not None:
            found = self._stored.stages(layer)
        else:
            found = stages(block, state.original[:1, : min(64, self._tokens.shape[1])])
        if self._corrects:
            state.inputs = self._original_inputs(block, found, state.original)
        for stage in found:
            names = [name for name in stage.names if name in self._formats]
            if not names:
                continue
            self._progress(layer, names[0])
            if all(name in self._earlier for name in names):
                for name in names:
                    state.replaced[name] = self._earlier[name].tensor.dequantize(threads=self._options.threads)
                    yield self._earlier[name]
                continue
            current = model.block(layer, state.replaced) if state.replaced and self._options.sequential else block
            if stage.experts:
                solved = self._experts(stage, names, current, state)
            else:
                moments = self._moments(layer, names, block, current, state)
                solved = self._solve(names, moments)
            for one in solved:
                state.replaced[one.name] = one.tensor.dequantize(threads=self._options.threads)
                yield one
        if self._stored is not None:
            return
        self._advance(block, model.block(layer, state.replaced), state)

    def _advance(self, block: Block, current: Block, state: PassState) -> None:
        """Takes the hidden states through the layer as it was, and as it is by now."""
        model, apart = self._model, state.current is not state.original
        if not self._options.sequential:
            state.original = state.current = model.through(block, state.original, out=state.original)
            return
        if not self._corrects:
            # Nothing asks for the states of the model as it was.
            state.original = state.current = model.through(current, state.current, out=state.current)
            return
        state.current = model.through(current, state.current, out=state.current if apart else None)
        state.original = model.through(block, state.original, out=state.original)

    def _original_inputs(self, block: Block, found: list[Stage], h: Floats) -> dict[str, list[Floats]]:
        """The inputs of a layer's weights in the original model, by group of chunks; empty if they are too large."""
        wanted = tuple(stage.names[0] for stage in found if not stage.experts)
        columns = sum(self._model.tensor(name).shape[-1] for name in wanted)
        if 4 * self._tokens.size * columns > KEPT_BYTES:
            return {}
        kept: dict[str, list[Floats]] = {name: [] for name in wanted}

        def keep(seen: dict[str, Floats]) -> None:
            for name in wanted:
                kept[name].append(seen[name])

        self._side_by_side(lambda start: inputs_of(block, h[start : start + self._step], wanted), keep)
        return kept

    def _side_by_side(self, work: Callable[[int], R], done: Callable[[R], object]) -> None:
        """For each group of chunks, by the number of its first."""
        self._model.side_by_side(work, range(0, len(self._tokens), self._step), done)

    def _moments(self, layer: int, names: list[str], block: Block, current: Block, state: PassState) -> Moments:
        model, options = self._model, self._options
        if self._stored is not None:
            return self._from_file(names[0])[0]
        same = state.current is state.original and current is block
        cross = bool(options.cross) and not same
        added = len(names) == 1 and names[0].endswith(_ADDED) and bool(self._residual) and not same
        middle = f"blk.{layer}.attn_output.weight"
        wanted = (names[0], middle) if added and not names[0].endswith(_ADDED[0]) else (names[0],)
        moments = Moments(model.tensor(names[0]).shape[-1], cross=cross, threads=options.threads)

        def run(start: int) -> tuple[Floats, Floats | None, Floats | None, Floats | None]:
            now = state.current[start : start + self._step]
            seen = inputs_of(current, now, wanted)
            weights = self._token_weights(names, start)
            if not (cross or added):
                return seen[names[0]], None, None, weights
            then = state.original[start : start + self._step]
            if all(name in state.inputs for name in wanted):
                before = {name: state.inputs[name][start // self._step] for name in wanted}
            else:
                before = inputs_of(block, then, wanted)
            lack = None
            if added:
                lack = (then - now).reshape(-1, then.shape[-1])
                if len(wanted) == 2:
                    lack += self._output_of(middle, None, before[middle]) - self._output_of(middle, state, seen[middle])
            return seen[names[0]], before[names[0]] if cross else None, lack, weights

        self._side_by_side(run, lambda part: moments.add(*part))
        moments.check(names[0], model.path)
        return moments

    def _from_file(self, name: str) -> list[Moments]:
        """Stored moments of a weight's input, or of each expert's. With AWQ's scales the input is that much smaller."""
        if self._stored is None:
            raise AssertionError("asked for only where there is a file")
        found = self._stored.moments(name, self._options.threads)
        factors = self._model.tensor(name).factors
        if factors is not None and factors.columns is not None:
            scales = np.frombuffer(factors.columns, "<f4").reshape(-1, len(found[0].hessian)).astype(np.float64)
            for number, own in enumerate(found):
                each = scales[min(number, len(scales) - 1)]
                own.hessian /= np.outer(each, each)
        return found

    def _token_weights(self, names: list[str], start: int) -> Floats | None:
        """How much each token of a group of chunks counts for these weights; None where all count alike."""
        strength = self._options.token_weights
        known = [self._fisher[name].weights[start : start + self._step] for name in names if name in self._fisher]
        if not known or not strength:
            return None
        mean: Floats = np.mean(known, axis=0, dtype=np.float32).reshape(-1)
        weights: Floats = (1 - np.float32(strength)) + np.float32(strength) * np.minimum(mean, np.float32(8))
        return weights

    def _weight(self, name: str, state: PassState | None) -> Floats:
        if state is not None and name in state.replaced:
            return state.replaced[name]
        return finite_weight(self._model, name)

    def _output_of(self, name: str, state: PassState | None, x: Floats) -> Floats:
        return matmul(self._weight(name, state), x, activations="float32", threads=self._options.threads)

    def _solve(self, names: list[str], moments: Moments) -> list[SolvedTensor]:
        options = self._options
        factored: FactoredHessian | None = None
        solved = []
        weights = {name: self._weight(name, None) for name in names}
        if options.gptq or options.awq:
            weights = {n: moments.target(w, options.damp, options.cross, self._residual) for n, w in weights.items()}
        for name, target in weights.items():
            started = time.monotonic()
            if options.awq and not options.gptq:
                solved.append(_clipped(name, target, self._formats[name], moments, options.threads))
                continue
            solvable = self._formats[name] in solver_formats()
            if not options.gptq or name in options.rounded or not solvable:
                note = "this format has no solver" if options.gptq and not solvable else ""
                solved.append(_rounded(name, target, self._formats[name], moments, note))
                continue
            if factored is None:
                factored = FactoredHessian(
                    moments.hessian / max(moments.tokens, 1),
                    damp=options.damp,
                    act_order=options.act_order,
                    effort=options.effort,
                    threads=options.threads,
                )
            coupled = name in self._fisher and bool(self._fisher[name].parts)
            # With rows coupled this is only what the better result is held against.
            effort = "fast" if coupled else options.effort
            result = factored.solve(target, self._formats[name], effort=effort, threads=options.threads)
            one = _result(name, target, result, moments, options.damp, time.monotonic() - started)
            if coupled:
                one = self._two_sided(one, target, factored, started)
            solved.append(one)
        return solved

    def _two_sided(self, one: SolvedTensor, w: Floats, factored: FactoredHessian, started: float) -> SolvedTensor:
        """The same weight with its rows coupled, or `one`, or rounded: whichever the coupled objective likes best."""
        options, format = self._options, one.tensor.format
        weighted = quantize(w, format, imatrix=np.maximum(np.diag(factored.hessian), 1e-30), threads=options.threads)
        errors = [w - tensor.dequantize(threads=options.threads) for tensor in (weighted, one.tensor)]
        data = [tensor.data.reshape(len(w), -1) for tensor in (weighted, one.tensor)]
        first, blocks, before, after = 0, [], 0.0, 0.0
        for part in self._fisher[one.name].parts:
            rows = slice(first, first + len(part))
            first = rows.stop
            tensor, error = solve_two_sided(
                factored, w[rows], part, format,
                damp=options.fisher_damp, sweeps=options.sweeps, threads=options.threads,
            )  # fmt: skip
            tried = [*(e[rows] for e in errors), error]
            losses = [two_sided_loss(e, part, factored.hessian, options.fisher_damp, options.threads) for e in tried]
            blocks.append([*(d[rows] for d in data), tensor.data.reshape(len(part), -1)][int(np.argmin(losses))])
            before, after = before + losses[0], after + min(losses)
        solved = QuantizedTensor(np.concatenate(blocks), format, one.tensor.shape)
        seconds = time.monotonic() - started
        report = replace(one.report, rounded=before, weighted=before, solved=after, seconds=seconds)
        return SolvedTensor(one.name, solved, one.importance, report)

    def _expert_moments(self, name: str, current: Block, state: PassState) -> list[Moments]:
        """Of each expert's own tokens."""
        if self._stored is not None:
            return self._from_file(name)
        count, _, columns = self._model.tensor(name).shape
        moments = [Moments(columns, cross=False, threads=self._options.threads) for _ in range(count)]

        def add(seen: list[Input]) -> None:
            for one in seen:
                moments[one.expert].add(one.x)

        self._side_by_side(lambda start: seen_through(current, state.current[start : start + self._step], (name,)), add)
        return moments

    def _experts(self, stage: Stage, names: list[str], current: Block, state: PassState) -> list[SolvedTensor]:
        options = self._options
        moments = self._expert_moments(names[0], current, state)
        columns = self._model.tensor(names[0]).shape[-1]
        solved = []
        for name in names:
            w = self._weight(name, None)
            format = self._formats[name]
            parts = []
            for expert, own in enumerate(moments):
                own.check(name, self._model.path)
                label = f"{name} (expert {expert})"
                if options.awq and not options.gptq and own.tokens:
                    one = _clipped(label, w[expert], format, own, options.threads)
                    parts.append(replace(one, report=replace(one.report, note="")))
                    continue
                few = own.tokens < _ENOUGH_TOKENS * columns
                if few or not options.gptq or format not in solver_formats():
                    note = f"expert {expert} saw {own.tokens} tokens" if few and options.gptq else ""
                    parts.append(_rounded(label, w[expert], format, own, note))
                    continue
                started = time.monotonic()
                factored = FactoredHessian(
                    own.hessian / own.tokens,
                    damp=options.damp,
                    act_order=options.act_order,
                    effort=options.effort,
                    threads=options.threads,
                )
                result = factored.solve(w[expert], format, threads=options.threads)
                parts.append(_result(label, w[expert], result, own, options.damp, time.monotonic() - started))
            solved.append(_stacked(name, w.shape, parts))
        return solved

    def _output(self, state: PassState) -> Iterator[SolvedTensor]:
        model = self._model
        name = model.output_name
        if name not in self._formats or not model.causal:
            return
        self._progress(model.n_layer, name)
        if name in self._earlier:
            yield self._earlier[name]
            return
        if self._stored is not None:
            yield from self._solve([name], self._from_file(name)[0])
            return
        moments = Moments(model.hidden_size, cross=bool(self._options.cross), threads=self._options.threads)
        corrected = bool(self._options.cross)

        def run(start: int) -> tuple[Floats, Floats | None, None, Floats | None]:
            own = slice(start, start + self._step)
            x = model.normalized(state.current[own]).reshape(-1, model.hidden_size)
            y = model.normalized(state.original[own]).reshape(-1, model.hidden_size) if corrected else None
            return x, y, None, self._token_weights([name], start)

        self._side_by_side(run, lambda part: moments.add(*part))
        moments.check(name, model.path)
        yield from self._solve([name], moments)


def _result(
    name: str, target: Floats, result: GPTQResult, moments: Moments, damp: float, seconds: float
) -> SolvedTensor:
    """The solution with a report; `damp` is the damping that was asked for."""
    plain = quantize(target, result.tensor.format, imatrix=np.ones(target.shape[1], np.float32))
    # Same damping as in the solver's own losses, so that the three can be held against each other.
    scale = moments.hessian / max(moments.tokens, 1)
    error = target - plain.dequantize()
    damped = float(result.damp * np.einsum("ii->i", scale).mean())
    notes = [f"{result.dead} columns never used"] if result.dead else []
    if result.damp > damp:
        notes.append(f"not positive definite with damping of {damp:g}: it is {result.damp:g}")
    unscaled = row_losses(error, scale.astype(np.float32)).sum()
    rounded = float(unscaled + damped * (error * error).sum(dtype=np.float64))
    report = TensorReport(
        name=name,
        format=result.tensor.format,
        nbytes=result.tensor.nbytes,
        rounded=rounded,
        weighted=float(result.rounded.sum()),
        solved=float(result.solved.sum()),
        seconds=seconds,
        damp=result.damp,
        tokens=moments.tokens,
        note="; ".join(notes),
    )
    return SolvedTensor(name, result.tensor, moments.importance(), report)


def _rounded(name: str, w: Floats, format: str, moments: Moments, note: str) -> SolvedTensor:
    """Weighted rounding, where there is nothing to solve with."""
    importance = moments.importance()
    given = importance if importance.any() else np.ones(w.shape[-1], np.float32)
    tensor = quantize(w, format, imatrix=given)
    error = w - tensor.dequantize()
    loss = float((error * error * importance).sum(dtype=np.float64))
    report = TensorReport(name, format, tensor.nbytes, loss, loss, loss, 0.0, 0.0, moments.tokens, note)
    return SolvedTensor(name, tensor, importance, report)


def _clipped(name: str, w: Floats, format: str, moments: Moments, threads: int | None) -> SolvedTensor:
    """Weighted rounding, of clipped weights where that is better."""
    started = time.monotonic()
    mean = (moments.hessian / max(moments.tokens, 1)).astype(np.float32)
    found = awq_clip(w, mean, format, threads=threads)
    plain = quantize(w, format, imatrix=np.ones(w.shape[-1], np.float32), threads=threads)
    report = TensorReport(
        name=name,
        format=format,
        nbytes=found.tensor.nbytes,
        rounded=float(row_losses(w - plain.dequantize(threads=threads), mean, threads).sum()),
        weighted=float(found.rounded.sum()),
        solved=float(found.clipped.sum()),
        seconds=time.monotonic() - started,
        damp=0.0,
        tokens=moments.tokens,
        note=f"{found.share:.0%} of its blocks clipped" if found.share else "",
    )
    return SolvedTensor(name, found.tensor, moments.importance(), report)


def _stacked(name: str, shape: tuple[int, ...], parts: list[SolvedTensor]) -> SolvedTensor:
    """One tensor of those of all experts."""
    reports = [part.report for part in parts]
    data = np.concatenate([part.tensor.data.reshape(-1) for part in parts])
    importance = np.concatenate([part.importance for part in parts if part.importance is not None])
    return SolvedTensor(
        name, QuantizedTensor(data, reports[0].format, shape), importance, TensorReport.of_experts(name, reports)
    )


def _with_embedding(model: RunnableModel, tensor: QuantizedTensor) -> RunnableModel:
    """The same model with another token embedding."""
    name = "token_embd.weight"
    data = tensor.dequantize().astype("<f4").tobytes()
    own = SourceTensor(name=name, shape=tensor.shape, dtype="F32", inline=data)
    tensors = [own if t.name == name else t for t in model.source.tensors]
    return RunnableModel(replace(model.source, tensors=tensors), model.path, Arithmetic(threads=model.threads))

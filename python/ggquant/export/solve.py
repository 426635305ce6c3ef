"""Modules solved layer by layer into groups of integers: GPTQ and AWQ for checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.errors import Error
from ggquant.export.layouts import float_bytes
from ggquant.export.scheme import Scheme
from ggquant.layerwise.hessians import HessianFile
from ggquant.layerwise.inputs import Stage
from ggquant.layerwise.moments import Moments
from ggquant.layerwise.options import LayerwiseOptions
from ggquant.layerwise.report import SolvedTensor, TensorReport
from ggquant.layerwise.solve import LayerPass, PassState
from ggquant.methods.awq import Rounding, row_losses
from ggquant.methods.solver import IntegerGroups, gptq_groups
from ggquant.model import SourceTensor
from ggquant.runtime import Block, RunnableModel
from ggquant.tensor import QuantizedTensor

Floats = npt.NDArray[np.float32]

#: An expert with fewer tokens than this share of its columns has no Hessian worth the name.
_ENOUGH_TOKENS = 0.25


@dataclass(frozen=True)
class Grids:
    """What weights are solved into.

    Attributes:
        scheme: width, groups, symmetry.
        scale_types: the type of the scales of each weight, by GGUF name.
        least_zero: the smallest zero point that the layout can store.
        act_order: solve, and group, columns by falling diagonal of the Hessian.
    """

    scheme: Scheme
    scale_types: Mapping[str, str]
    least_zero: int
    act_order: bool


@dataclass(frozen=True)
class SolvedGroups(SolvedTensor):
    """A weight in groups of integers; `tensor` has the values that they read back as.

    Attributes:
        groups: one of it, or one for each expert of a stack.
    """

    groups: tuple[IntegerGroups, ...]


class GroupPass(LayerPass):
    """The pass over a model's layers, with weights solved into groups of integers.

    Args:
        model: the model as it was, in float32 arithmetic.
        tokens: calibration tokens [n_chunks, n_ctx].
        grids: what each weight is solved into; others stay as they are.
        options: method, damping, corrections.
        progress: told the layer and the tensor that is next.
        earlier: what an earlier run solved, with the same arguments.
        hessians: Hessians to solve with, so that nothing has to run.
    """

    def __init__(
        self,
        model: RunnableModel,
        tokens: npt.NDArray[np.int64],
        grids: Grids,
        options: LayerwiseOptions,
        progress: Callable[[int, str], object],
        earlier: Mapping[str, SolvedTensor],
        hessians: HessianFile | None = None,
    ) -> None:
        label = grids.scheme.label
        super().__init__(model, tokens, dict.fromkeys(grids.scale_types, label), options, progress, earlier, hessians)
        self._grids = grids

    def _solve(self, names: list[str], moments: Moments) -> list[SolvedTensor]:
        options = self._options
        weights = {name: self._weight(name, None) for name in names}
        if options.gptq:
            weights = {n: moments.target(w, options.damp, options.cross, self._residual) for n, w in weights.items()}
        mean = moments.hessian / max(moments.tokens, 1)
        solved: list[SolvedTensor] = []
        for kind in dict.fromkeys(self._grids.scale_types[name] for name in names):
            same = {name: w for name, w in weights.items() if self._grids.scale_types[name] == kind}
            solved += self._together(same, mean, moments.tokens, options.gptq)
        return solved

    def _experts(self, stage: Stage, names: list[str], current: Block, state: PassState) -> list[SolvedTensor]:
        moments = self._expert_moments(names[0], current, state)
        solved: list[SolvedTensor] = []
        parts: dict[str, list[SolvedGroups]] = {name: [] for name in names}
        weights = {name: self._weight(name, None) for name in names}
        for expert, own in enumerate(moments):
            own.check(names[0], self._model.path)
            mean = own.hessian / max(own.tokens, 1)
            enough = own.tokens >= _ENOUGH_TOKENS * len(mean)
            for name in names:
                note = "" if enough or not self._options.gptq else f"expert {expert} saw {own.tokens} tokens"
                made = self._together(
                    {name: weights[name][expert]}, mean, own.tokens, self._options.gptq and enough, note
                )
                parts[name] += made
        for name, made in parts.items():
            solved.append(_stacked(name, weights[name].shape, made))
        return solved

    def _together(
        self, weights: Mapping[str, Floats], mean: npt.NDArray[np.float64], tokens: int, gptq: bool, note: str = ""
    ) -> list[SolvedGroups]:
        """Weights with the same inputs and the same type of scales, as one matrix: rows do not depend on each other."""
        started = time.monotonic()
        names = list(weights)
        stack = np.concatenate([weights[name] for name in names])
        kind, damp = self._grids.scale_types[names[0]], 0.0
        rounded = self._on_grid(names[0], stack, kind)
        before = _losses(stack, rounded, mean)
        groups, after = rounded, before
        if gptq:
            groups, damp = self._gptq(names[0], stack, mean, kind)
            after = _losses(stack, groups, mean)
            if not self._grids.act_order:
                # The textbook recursion is greedy: a row that it makes worse is rounded instead.
                groups, after = _better(groups, after, rounded, before)
        seconds, first, made = (time.monotonic() - started) / len(names), 0, []
        for name in names:
            rows = slice(first, first + len(weights[name]))
            part = IntegerGroups(
                groups.codes[rows], groups.scales[rows], groups.zeros[rows], groups.group_of, groups.bits
            )
            losses = float(before[rows].sum()), float(after[rows].sum())
            report = TensorReport(
                name, self._grids.scheme.label, _nbytes(part), losses[0], losses[0], losses[1], seconds, damp, tokens,
                note,
            )  # fmt: skip
            made.append(SolvedGroups(name, _values(part.dequantize()), None, report, (part,)))
            first = rows.stop
        return made

    def _gptq(self, name: str, w: Floats, mean: npt.NDArray[np.float64], kind: str) -> tuple[IntegerGroups, float]:
        """GPTQ's groups, with damping that grows tenfold until the Hessian can be used."""
        scheme, grids, damp = self._grids.scheme, self._grids, self._options.damp or 1e-6
        if not np.diag(mean).any():
            return self._on_grid(name, w, kind), 0.0
        while True:
            try:
                groups = gptq_groups(
                    w, mean, scheme.bits, scheme.group_size, sym=scheme.symmetric, act_order=grids.act_order, damp=damp,
                    scale_type=kind, least_zero=grids.least_zero, threads=self._options.threads,
                )  # fmt: skip
            except Error as error:
                if "positive definite" in str(error) and damp < 1:
                    damp *= 10
                    continue
                raise type(error)(f"tensor '{name}': {error}", tensor=name) from error
            return groups, damp

    def _on_grid(self, name: str, w: Floats, kind: str) -> IntegerGroups:
        return round_groups(name, w, self._grids.scheme, kind, self._grids.least_zero, self._options.threads)


class GroupStoring:
    """How weights in groups of integers, and norms, are stored in a checkpoint: see `ggquant.layerwise.scaled`.

    Args:
        grids: of the weights.
        vectors: the norms and biases as they are converted, and the type that they are stored in, by GGUF name.
        threads: number of threads.
    """

    def __init__(self, grids: Grids, vectors: Mapping[str, tuple[SourceTensor, str]], threads: int | None) -> None:
        self._grids, self._vectors, self._threads = grids, vectors, threads

    def rounding(self, name: str) -> Rounding | None:
        """Rounds rows of a weight to the nearest points of its groups' grids."""
        kind, grids = self._grids.scale_types.get(name), self._grids
        if kind is None:
            return None
        return lambda w, _: round_groups(name, w, grids.scheme, kind, grids.least_zero, self._threads).dequantize()

    def judge(self, weights: Mapping[str, Floats], hessian: Floats) -> None:
        """Nothing but rounding."""

    def stored(self, name: str, values: Floats) -> Floats:
        """A norm's values after they have been stored in the checkpoint, in its type, and converted again."""
        tensor, dtype = self._vectors[name]
        return stored_norm(tensor, values, dtype)


def round_groups(
    name: str, w: Floats, scheme: Scheme, scale_type: str, least_zero: int, threads: int | None, first: int = 0
) -> IntegerGroups:
    """Weights `[rows, K]` rounded to the nearest points of the grids that span their groups.

    Args:
        name: for messages, with `first`, the number of the first row.

    Raises:
        NonFiniteError, UnsupportedError: weights that are not finite, or scales that are too large for their type.
    """
    rows, columns = w.shape
    try:
        codes, scales, zeros = _native.round_to_nearest(
            np.ascontiguousarray(w, np.float32).reshape(-1), columns, scheme.bits, scheme.group_len(columns),
            scheme.symmetric, scale_type, least_zero, threads,
        )  # fmt: skip
    except Error as error:
        start = f", from row {first}" if first else ""
        raise type(error)(f"module {name}{start}: {error}", tensor=name) from error
    group_of = (np.arange(columns) // scheme.group_len(columns)).astype(np.int32)
    shape = (rows, scheme.groups(columns))
    return IntegerGroups(codes.reshape(w.shape), scales.reshape(shape), zeros.reshape(shape), group_of, scheme.bits)


def stored_norm(tensor: SourceTensor, values: Floats, dtype: str) -> Floats:
    """A norm's values after they have been stored in the checkpoint, in its type, and converted again."""
    kept = float_bytes(norm_to_store(tensor, values), dtype)
    if dtype == "BF16":
        return converted_norm(tensor, (kept.view("<u2").astype("<u4") << 16).view("<f4"))
    return converted_norm(tensor, kept.view("<f2" if dtype == "F16" else "<f4").astype(np.float32))


def converted_norm(tensor: SourceTensor, values: Floats) -> Floats:
    """What conversion makes of stored values."""
    for op, constant in tensor.ops:
        values = values + np.float32(constant) if op == "add" else values * np.float32(constant)
    return values


def norm_to_store(tensor: SourceTensor, values: Floats) -> Floats:
    """The stored values that conversion makes `values` of."""
    for op, constant in reversed(tensor.ops):
        values = values - np.float32(constant) if op == "add" else values / np.float32(constant)
    return values


def _losses(w: Floats, groups: IntegerGroups, mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`e^T H e` of each row."""
    return row_losses(w - groups.dequantize(), mean.astype(np.float32))


def _better(
    groups: IntegerGroups, after: npt.NDArray[np.float64], rounded: IntegerGroups, before: npt.NDArray[np.float64]
) -> tuple[IntegerGroups, npt.NDArray[np.float64]]:
    worse = (after > before)[:, None]
    codes, scales, zeros = (
        np.where(worse, theirs, ours)
        for theirs, ours in (
            (rounded.codes, groups.codes), (rounded.scales, groups.scales), (rounded.zeros, groups.zeros)
        )
    )  # fmt: skip
    return IntegerGroups(codes, scales, zeros, groups.group_of, groups.bits), np.minimum(after, before)


def _nbytes(groups: IntegerGroups) -> int:
    return groups.codes.size * groups.bits // 8 + 2 * groups.scales.size + groups.zeros.size * groups.bits // 8


def _values(values: Floats) -> QuantizedTensor:
    data = np.ascontiguousarray(values, dtype="<f4")
    return QuantizedTensor(data.reshape(-1).view(np.uint8), "F32", values.shape)


def _stacked(name: str, shape: tuple[int, ...], parts: list[SolvedGroups]) -> SolvedGroups:
    values = np.concatenate([part.tensor.dequantize() for part in parts]).reshape(shape)
    report = TensorReport.of_experts(name, [part.report for part in parts])
    return SolvedGroups(name, _values(values), None, report, tuple(group for part in parts for group in part.groups))

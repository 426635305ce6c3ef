"""Time that solving a model takes: reckoned from headers before it starts, and from what is done later on.

Work is counted in operations of a float32 product of matrices, of which the machine's rate is measured (`work_rate`);
everything else is held against that. The factors were fitted to runs on models of 20 million weights and to single
weights of up to 4096 columns, and are good to a factor of about 1.5.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from ggquant.layerwise.fisher import ROW_LIMIT
from ggquant.layerwise.inputs import likely_stages
from ggquant.methods.solver import Effort, solver_formats, vector_formats
from ggquant.runtime.memory import active_weights
from ggquant.runtime.model import RunnableModel

if TYPE_CHECKING:
    from ggquant.layerwise.options import LayerwiseOptions

#: For each weight of a row, by effort: work on its scale and code, and work for each column of its row.
_SOLVING: dict[Effort, tuple[float, float]] = {"fast": (12e3, 3.0), "normal": (16e3, 9.0), "best": (20e3, 24.0)}

#: Formats that choose several columns jointly take this many times the former.
_JOINTLY = 5.0

#: Rounding a weight with its importance matrix.
_ROUNDING = 1500.0

#: A layer takes this many times what its products would at their best: norms, attention, memory.
_RUNNING = 1.6

#: Sums of products of inputs are added up in float64 every 256 tokens.
_SUMMING = 2.0

#: Solutions of rounded rows that a search for AWQ's scales compares, in runs of the fast solver.
_COMPARED = 5.0


@dataclass
class Cost:
    """Work by what it is for.

    Attributes:
        hessians: running the model as it was for a file of Hessians.
        scales: the search for AWQ's scales.
        gradients: running the model forward and back.
        weights: solving each weight, with the second moments of its input.
        layers: taking hidden states through each layer.
    """

    hessians: float = 0.0
    scales: float = 0.0
    gradients: float = 0.0
    weights: dict[str, float] = field(default_factory=dict)
    layers: list[float] = field(default_factory=list)

    @property
    def total(self) -> float:
        """All of it."""
        return self.hessians + self.scales + self.gradients + sum(self.weights.values()) + sum(self.layers)


def solving_cost(
    model: RunnableModel,
    n_tokens: int,
    formats: Mapping[str, str],
    options: LayerwiseOptions,
    *,
    stored: bool = False,
    collects: bool = False,
    done: Collection[str] = (),
) -> Cost:
    """What solving a model takes.

    Args:
        model: the model as it was.
        n_tokens: size of the calibration text.
        formats: block format of each weight that is to be solved.
        options: how.
        stored: whether Hessians come from a file.
        collects: whether that file has to be made first.
        done: names of weights that an earlier run has solved.
    """
    layers = [model.block_tensors(layer) for layer in range(model.n_layer)]
    runs = [_RUNNING * n_tokens * sum(2 * active_weights(t, model) for t in tensors) for tensors in layers]
    cost = Cost(layers=[0.0] * len(layers) if stored else [run * (3 if options.corrects else 1) for run in runs])
    rounded = not options.gptq
    sums = 0.0
    for layer, tensors in enumerate([*layers, [model.tensor(model.output_name)] if model.causal else []]):
        for number, names in enumerate(likely_stages(tensors)):
            shape = model.tensor(names[0]).shape
            seen = n_tokens * active_weights(model.tensor(names[0]), model) / max(prod(shape[-2:]), 1)
            moments = _SUMMING * seen * shape[-1] ** 2
            sums += moments
            if options.corrects and len(shape) == 2:
                moments *= 3
            if layer < len(layers) and number:
                # Up to a weight in the middle of a layer.
                moments += runs[layer] / 2
            wanted = [name for name in names if name in formats and name not in done]
            for name in wanted:
                own = 0.0 if stored else moments / len(wanted)
                cost.weights[name] = own + _weight_cost(model, name, formats[name], options, rounded=rounded)
    embedding = "token_embd.weight"
    if options.gptq and embedding in formats and embedding not in (*done, *cost.weights):
        cost.weights[embedding] = _weight_cost(model, embedding, formats[embedding], options, rounded=False)
    if collects:
        cost.hessians = sum(runs) + sums
    if options.awq:
        fast = sum(_solver_cost(model, name, formats[name], "fast") for name in cost.weights)
        cost.scales = sum(runs) + sums + _COMPARED * (fast if options.gptq else fast / 4)
    if options.fisher and options.gptq and cost.weights:
        head = 2 * n_tokens * prod(model.tensor(model.output_name).shape)
        outputs = sum(_SUMMING * n_tokens * _rows(model, name) * _coupled(model, name) for name in cost.weights)
        cost.gradients = 3 * (sum(runs) + head) + outputs
    return cost


def _weight_cost(model: RunnableModel, name: str, format: str, options: LayerwiseOptions, *, rounded: bool) -> float:
    weights = prod(model.tensor(name).shape)
    if rounded or name in options.rounded or format not in solver_formats():
        return 4 * _ROUNDING * weights
    work = _solver_cost(model, name, format, options.effort)
    if options.cross or options.residual:
        work += 3 * weights * model.tensor(name).shape[-1]
    if options.fisher:
        work += _solver_cost(model, name, format, "fast") + 4 * weights * _coupled(model, name)
    return work


def _solver_cost(model: RunnableModel, name: str, format: str, effort: Effort) -> float:
    """Factoring the Hessian, rounding, and solving."""
    shape = model.tensor(name).shape
    each, column = _SOLVING[effort]
    each *= _JOINTLY if format in vector_formats() else 1
    matrices = shape[0] if len(shape) == 3 else 1
    return prod(shape) * (each + column * shape[-1]) + matrices * shape[-1] ** 3


def _rows(model: RunnableModel, name: str) -> int:
    """Outputs of a weight; of the embedding, columns."""
    shape = model.tensor(name).shape
    return shape[-1] if name == "token_embd.weight" else shape[-2]


def _coupled(model: RunnableModel, name: str) -> int:
    """Rows of a weight whose errors are held against each other."""
    return 0 if name == model.output_name else min(_rows(model, name), ROW_LIMIT)

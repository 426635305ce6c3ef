"""Where the pass over a model's layers stands, for those who wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ggquant.layerwise.cost import Cost
from ggquant.layerwise.report import TensorReport

#: The rate of work that was measured before the start counts like this share of all work being done at it.
_PRIOR = 0.03


@dataclass(frozen=True)
class LayerwiseProgress:
    """Where the pass over the layers stands.

    Attributes:
        layer: the layer being solved; -1 for the embedding and what comes before the layers, `n_layer` for the output
            matrix.
        n_layer: number of layers.
        tensor: the tensor that is next, or what else is.
        done, total: tensors solved, and to be solved.
        before, after: losses of the tensor solved last: of weighted rounding, and of the solution; None before the
            first.
        seconds: time since the start.
        share: of all work, what is done, 0 to 1.
        left: seconds that the rest will take, about.
    """

    layer: int
    n_layer: int
    tensor: str
    done: int
    total: int
    before: float | None
    after: float | None
    seconds: float
    share: float
    left: float


class Watch:
    """Keeps count of the work that is done, and tells of it.

    Args:
        told: gets the progress; None for nobody.
        n_layer: number of layers.
        cost: of what is to be done.
        rate: of work, as it was measured before the start, operations a second.
        done, total: tensors solved by an earlier run, and to be solved in all.
    """

    def __init__(
        self,
        told: Callable[[LayerwiseProgress], object] | None,
        n_layer: int,
        cost: Cost,
        rate: float,
        done: int,
        total: int,
    ) -> None:
        self._told, self._n_layer, self._cost, self._rate = told, n_layer, cost, rate
        self._done, self._total = done, total
        self._started = time.monotonic()
        self._work = self._solved = 0.0
        self._last: TensorReport | None = None

    def hessians(self, layer: int, name: str) -> None:
        """The Hessians of a layer are next."""
        self._work = self._cost.hessians * self._through(layer)
        self._say(layer, f"Hessian of {name}" if layer >= 0 else name)

    def scales(self, layer: int, name: str) -> None:
        """AWQ's scales for a weight are next."""
        self._work = self._cost.hessians + self._cost.scales * self._through(layer)
        self._say(layer, f"scales of {name}")

    def gradients(self, done: int, total: int) -> None:
        """So many of all chunks have gone forward and back."""
        self._work = self._cost.hessians + self._cost.scales + self._cost.gradients * (done / max(total, 1))
        self._say(-1, f"gradients of {done}/{total} chunks")

    def next(self, layer: int, name: str) -> None:
        """A weight is next."""
        ahead = self._cost.hessians + self._cost.scales + self._cost.gradients
        self._work = ahead + self._solved + sum(self._cost.layers[: max(layer, 0)])
        self._say(layer, name)

    def solved(self, report: TensorReport) -> None:
        """A weight is solved."""
        self._done, self._last = self._done + 1, report
        self._solved += self._cost.weights.get(report.name, 0.0)

    def _through(self, layer: int) -> float:
        return max(layer, 0) / (self._n_layer + 1)

    def _say(self, layer: int, what: str) -> None:
        if self._told is None:
            return
        seconds, total = time.monotonic() - self._started, max(self._cost.total, 1.0)
        prior = _PRIOR * total
        left = (total - self._work) * (seconds + prior / self._rate) / (self._work + prior)
        last = self._last
        before, after = (None, None) if last is None else (last.weighted, last.solved)
        self._told(
            LayerwiseProgress(
                layer, self._n_layer, what, self._done, self._total, before, after, seconds, self._work / total, left
            )
        )

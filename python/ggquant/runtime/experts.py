"""Mixtures of experts: who gets which token, and what they make of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ggquant.architectures.graph import Graph
from ggquant.runtime import ops
from ggquant.runtime.linear import ExpertStack, Hook, Linear
from ggquant.runtime.ops import Floats


class Experts:
    """A feed-forward network in which a router chooses some of many experts for each token.

    Attributes:
        count: number of experts.
        chosen: how many of them each token gets.
        all_for_hook: whether the hook sees every token with every expert. The result does not change.
    """

    def __init__(
        self,
        router: Linear,
        gate: ExpertStack,
        up: ExpertStack,
        down: ExpertStack,
        *,
        chosen: int,
        normalizes: bool,
        scale: float,
        graph: Graph,
        threads: int | None,
    ) -> None:
        self.count = router.rows
        self.chosen = min(chosen, self.count)
        self.all_for_hook = False
        self._router = router
        self._gate, self._up, self._down = gate, up, down
        self._normalizes = normalizes
        self._scale = np.float32(scale)
        self._graph = graph
        self._threads = threads

    def __call__(self, x: Floats, hook: Hook | None) -> Floats:
        """The network for rows `x` [tokens, hidden]."""
        ids, shares = self.route(self._router(x, hook))
        by_expert = np.argsort(ids.reshape(-1), kind="stable")
        bounds = np.searchsorted(ids.reshape(-1)[by_expert], np.arange(self.count + 1))
        parts = np.empty((ids.size, x.shape[1]), np.float32)
        for expert in range(self.count):
            places = by_expert[bounds[expert] : bounds[expert + 1]]
            tokens = places // self.chosen
            if self.all_for_hook and hook is not None:
                y = self._run(expert, x, hook)[tokens]
            elif len(places):
                y = self._run(expert, x[tokens], hook)
            else:
                continue
            parts[places] = y * shares.reshape(-1)[places, None]
        out: Floats = parts.reshape(len(x), self.chosen, -1).sum(axis=1)
        return out

    def route(self, scores: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
        """Each token's experts, best first, and their shares: [tokens, chosen] each. The first of equals wins."""
        ids = np.argsort(-scores, axis=1, kind="stable")[:, : self.chosen]
        if self._graph.router == "softmax_chosen":
            shares = ops.softmax(np.take_along_axis(scores, ids, axis=1))
        else:
            shares = np.take_along_axis(ops.softmax(scores), ids, axis=1)
            if self._normalizes:
                shares /= shares.sum(axis=1, keepdims=True)
        return ids, shares * self._scale

    def _run(self, expert: int, x: Floats, hook: Hook | None) -> Floats:
        gate = self._gate(expert, x, hook)
        up = self._up(expert, x, hook)
        ops.gated_in_place(gate, up, self._graph.activation, self._threads)
        return self._down(expert, gate, hook)

"""Turns the inputs of weight matrices, as the runtime shows them, into sums of squares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ggquant.calibration.statistics import Statistics
from ggquant.errors import ImatrixError
from ggquant.runtime import ops

if TYPE_CHECKING:
    from ggquant.runtime.ops import Floats


class Collector:
    """A hook that adds every input to the statistics of its weight.

    Attributes:
        statistics: what has been seen.
    """

    def __init__(self, statistics: Statistics, shapes: Mapping[str, tuple[int, ...]], threads: int | None) -> None:
        """Prepares for a model.

        Args:
            statistics: where to add.
            shapes: of the model's tensors by name; a stack of experts has three axes.
            threads: number of threads.
        """
        self.statistics = statistics
        self._shapes = shapes
        self._threads = threads
        # Queries, keys and values share an input, as gate and up do: its sums are computed once.
        self._last: tuple[Floats, npt.NDArray[np.float64]] | None = None

    def __call__(self, name: str, x: Floats, ids: npt.NDArray[np.int32] | None) -> None:
        """Adds rows, see `ggquant.runtime.Hook`."""
        if self._last is None or self._last[0] is not x:
            self._last = (x, ops.column_squares(x, self._threads))
        sums = self._last[1]
        if not np.isfinite(sums).all():
            column = int(np.flatnonzero(~np.isfinite(sums))[0])
            raise ImatrixError(
                f"tensor '{name}': the activations in column {column} of its input are not finite; "
                "the model overflows on this text, or its weights are damaged",
                tensor=name,
            )
        if ids is None:
            self.statistics.add(name, sums, len(x))
        elif len(ids):
            self.statistics.add(name, sums, len(x), expert=int(ids[0]), experts=self._shapes[name][0])

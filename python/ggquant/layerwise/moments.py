"""Second moments of the inputs of weights, and what they ask the weights to become."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ggquant.errors import NonFiniteError
from ggquant.linalg import add_gram, add_products, mirror, product, solve_damped

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]


class Moments:
    """Sums over tokens of products of inputs: in float32 over 256 tokens, in float64 beyond, in the order of the text.

    Args:
        columns: K.
        cross: whether to sum up `cross`.
        threads: number of threads, None for one per core. It does not change the sums.

    Attributes:
        tokens: number of tokens seen.
        cross: sum of `(y - x)^T x`, with y the inputs of the model as it was; None unless asked for.
        pull: by weight, sum of `r^T x`, with r what the residual stream lacks where the weight's output is added,
            [rows, K].
    """

    def __init__(self, columns: int, *, cross: bool, threads: int | None = None) -> None:
        self.tokens = 0
        self._threads = threads
        self._hessian: Doubles = np.zeros((columns, columns))
        self._whole = True
        self.cross: Doubles | None = np.zeros((columns, columns)) if cross else None
        self.pull: Doubles | None = None

    @property
    def hessian(self) -> Doubles:
        """Sum of `x^T x` over inputs x of the quantized model, [K, K]."""
        if not self._whole:
            mirror(self._hessian)
            self._whole = True
        return self._hessian

    @hessian.setter
    def hessian(self, value: Doubles) -> None:
        self._hessian, self._whole = value, True

    def add(
        self, x: Floats, y: Floats | None = None, lack: Floats | None = None, weights: Floats | None = None
    ) -> None:
        """Adds tokens.

        Args:
            x: inputs [n, K].
            y: those of the original model.
            lack: what the residual stream lacks, [n, rows].
            weights: how much each token counts, [n]; all alike without.
        """
        self.tokens += len(x)
        weighted = None if weights is None else x * weights[:, None]
        add_gram(self._hessian, x, weighted, self._threads)
        self._whole = False
        counted = x if weighted is None else weighted
        if y is not None and self.cross is not None:
            add_products(self.cross, y - x, counted, self._threads)
        if lack is not None:
            if self.pull is None:
                self.pull = np.zeros((lack.shape[1], x.shape[1]))
            add_products(self.pull, lack, counted, self._threads)

    def mean(self) -> Floats:
        """The mean of `x^T x`, float32 [K, K]."""
        return (self.hessian / max(self.tokens, 1)).astype(np.float32)

    def check(self, name: str, file: str) -> None:
        """Refuses sums that overflowed, and makes their mean a float32: what solvers take, and files of Hessians hold.

        Raises:
            NonFiniteError: an activation is NaN or infinite; the message names `file`, the model's.
        """
        with np.errstate(over="ignore"):
            self.hessian = self.mean().astype(np.float64) * self.tokens
        if not np.isfinite(self._hessian).all():
            raise NonFiniteError(
                f"{file}: tensor '{name}': its inputs are not finite on the calibration text; "
                "the model overflows in float32",
                file=file,
                tensor=name,
            )

    def importance(self) -> Floats:
        """Mean square of each column: the importance matrix of the weight."""
        return np.asarray(np.diag(self.hessian) / max(self.tokens, 1), dtype=np.float32)

    def target(self, w: Floats, damp: float, cross: float, residual: float) -> Floats:
        """What the weights should be for the inputs they get, before rounding.

        Minimises `|W y + r - W' x|^2` over W': `W' = W + (W sum (y - x)^T x + sum r^T x) H^-1` (the asymmetric target
        of GPTAQ, Li et al. 2025, arXiv 2504.02692, and the residual stream's own error beside it).

        Args:
            w: [rows, K].
            damp: added to the diagonal of H, relative to its mean.
            cross: strength of the first correction, 0 to 1.
            residual: strength of the second.
        """
        wanted: Doubles | None = None
        if self.cross is not None and cross:
            wanted = cross * product(w, self.cross.astype(np.float32), self._threads)
        if self.pull is not None and residual:
            part = residual * self.pull
            wanted = part if wanted is None else wanted + part
        if wanted is None:
            return w
        corrected: Floats = (w + solve_damped(self.hessian, wanted, damp, self._threads)).astype(np.float32)
        return corrected

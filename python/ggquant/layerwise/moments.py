"""Second moments of the inputs of weights, and what they ask the weights to become."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ggquant.errors import NonFiniteError

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]


class Moments:
    """Sums over tokens of products of inputs. Products are taken a few thousand tokens at a time, sums in float64.

    Attributes:
        tokens: number of tokens seen.
        hessian: sum of `x^T x` over inputs x of the quantized model, [K, K].
        cross: sum of `(y - x)^T x`, with y the inputs of the model as it was; None unless asked for.
        pull: by weight, sum of `r^T x`, with r what the residual stream lacks where the weight's output is added,
            [rows, K].
    """

    def __init__(self, columns: int, *, cross: bool) -> None:
        self.tokens = 0
        self.hessian: Doubles = np.zeros((columns, columns))
        self.cross: Doubles | None = np.zeros((columns, columns)) if cross else None
        self.pull: Doubles | None = None

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
        weighted = x if weights is None else x * weights[:, None]
        self.hessian += x.T @ weighted
        if y is not None and self.cross is not None:
            self.cross += (y - x).T @ weighted
        if lack is not None:
            product = lack.T @ weighted
            self.pull = product.astype(np.float64) if self.pull is None else self.pull + product

    def check(self, name: str) -> None:
        """Refuses sums that overflowed.

        Raises:
            NonFiniteError: an activation is NaN or infinite.
        """
        if not np.isfinite(self.hessian).all():
            raise NonFiniteError(
                f"tensor '{name}': its inputs are not finite on the calibration text; "
                "the model overflows in float32, or its weights are damaged",
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
            wanted = cross * (w.astype(np.float64) @ self.cross)
        if self.pull is not None and residual:
            part = residual * self.pull
            wanted = part if wanted is None else wanted + part
        if wanted is None:
            return w
        damped = self.hessian.copy()
        diagonal = np.einsum("ii->i", damped)
        mean = float(diagonal.mean())
        diagonal += damp * mean + (diagonal == 0) * (mean or 1.0)
        corrected: Floats = (w + np.linalg.solve(damped, wanted.T).T).astype(np.float32)
        return corrected

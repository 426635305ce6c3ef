"""GPTQ: weights whose rounding errors make up for each other, in block formats or in plain groups of integers.

For the rows `w` of a weight matrix and the Hessian `H = 2/n X^T X` of its inputs, both minimise the layer's squared
error `(w - q)^T H (w - q)`. References: Frantar et al. 2022, "GPTQ" (arXiv 2210.17323); Chee et al. 2023, "QuIP"
(arXiv 2307.13304), for the form with errors fed back, which is equivalent and needs no inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.errors import ShapeError, UnsupportedError, UsageError
from ggquant.registry import format_info
from ggquant.tensor import QuantizedTensor

Effort: TypeAlias = Literal["fast", "normal", "best"]

#: Rounds of descent and refits in each window of 256 columns, and passes over the whole row afterwards.
EFFORTS: dict[Effort, tuple[int, int]] = {"fast": (1, 0), "normal": (2, 1), "best": (4, 3)}


@dataclass(frozen=True)
class GPTQResult:
    """A solved tensor, and what it cost.

    Attributes:
        tensor: the weights in their block format.
        rounded: `(w - q)^T H (w - q)` of each row of the format's own encoder with diag(H) as importance matrix.
        solved: the same of each row of `tensor`; never more.
        damp: the damping used, relative to the mean of diag(H); more than was asked for where H needed it.
        dead: number of columns whose inputs are always zero.
    """

    tensor: QuantizedTensor
    rounded: npt.NDArray[np.float64]
    solved: npt.NDArray[np.float64]
    damp: float
    dead: int

    @property
    def gain(self) -> float:
        """Loss of the solution relative to that of weighted rounding: 1 for no gain, 0 for no loss at all."""
        before = float(self.rounded.sum())
        return float(self.solved.sum()) / before if before else 1.0


class FactoredHessian:
    """A Hessian, damped and factored, for any number of tensors with the same input.

    Args:
        hessian: `[K, K]`, symmetric positive semidefinite; only its proportions matter.
        damp: added to the diagonal, relative to its mean. Where that is not enough to make the matrix positive
            definite, it grows tenfold until it is.
        act_order: solve the columns of each window of 256 by falling diagonal. Codes keep their places.
        effort: the most that `solve` will be asked for.
        threads: number of threads, by default one per core. It does not change the result.

    Attributes:
        hessian: as given, float32.
        columns: K.

    Raises:
        ShapeError: not a square.
        UnsupportedError: a value is not finite, a negative diagonal, or a matrix that no damping helps.
    """

    def __init__(
        self,
        hessian: npt.ArrayLike,
        *,
        damp: float = 0.01,
        act_order: bool = True,
        effort: Effort = "normal",
        threads: int | None = None,
    ) -> None:
        square = np.ascontiguousarray(hessian, dtype=np.float32)
        if square.ndim != 2 or square.shape[0] != square.shape[1] or not square.size:
            raise ShapeError(f"a Hessian of shape {square.shape}; [K, K] is needed")
        self.hessian = square
        self.columns = int(square.shape[0])
        self.effort = effort
        _, passes = _effort(effort)
        self._arguments = (square.reshape(-1), self.columns, damp, act_order)
        self._threads = threads
        self._passes = passes
        self._factors: dict[bool, _native.HessianFactor] = {}

    @property
    def damp(self) -> float:
        """The damping used, relative to the mean of the diagonal."""
        return self._factor().damp

    @property
    def dead(self) -> int:
        """Number of columns whose inputs are always zero."""
        return self._factor().dead

    def _factor(self, joint: bool | None = None) -> _native.HessianFactor:
        """The factor for formats that choose columns jointly, or singly; whichever there is by default."""
        if joint is None:
            joint = next(iter(self._factors), False)
        if joint not in self._factors:
            flat, columns, damp, act_order = self._arguments
            self._factors[joint] = _native.HessianFactor(
                flat, columns, damp, act_order, joint, self._passes, self._threads
            )
        return self._factors[joint]

    def solve(
        self,
        w: npt.ArrayLike,
        format: str,
        *,
        importance: npt.ArrayLike | None = None,
        effort: Effort | None = None,
        threads: int | None = None,
    ) -> GPTQResult:
        """Solves weights `[rows, K]` into a block format. See `gptq`."""
        info = format_info(format)
        weights = np.ascontiguousarray(w, dtype=np.float32)
        if weights.ndim != 2 or weights.shape[1] != self.columns:
            raise ShapeError(f"weights of shape {weights.shape} do not go with a Hessian of {self.columns} columns")
        if info.row_bytes(self.columns) is None:
            raise ShapeError(
                f"rows of {self.columns} weights do not divide into blocks of {info.block_len} ({info.name})"
            )
        if info.name not in solver_formats():
            raise UnsupportedError(f"there is no GPTQ solver for {info.name}; there is one for {_names()}")
        columns = None if importance is None else np.ascontiguousarray(importance, dtype=np.float32).reshape(-1)
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be at least 1, not {threads}")
        rounds, passes = _effort(effort or self.effort)
        factor = self._factor(_solvers()[info.name])
        data, rounded, solved = factor.solve(info.name, weights.reshape(-1), columns, rounds, passes, threads)
        return GPTQResult(QuantizedTensor(data, info.name, weights.shape), rounded, solved, factor.damp, factor.dead)


def gptq(
    w: npt.ArrayLike,
    hessian: npt.ArrayLike,
    format: str,
    *,
    damp: float = 0.01,
    act_order: bool = True,
    effort: Effort = "normal",
    importance: npt.ArrayLike | None = None,
    threads: int | None = None,
) -> QuantizedTensor:
    """Encodes weights so that the errors of a row make up for each other: minimises `(w - q)^T H (w - q)`.

    With `H = U diag(D) U^T`, `U` unit upper triangular, the objective is `sum_k D_k (e_k + sum_{i<k} U_ik e_i)^2`, so
    that column k is best rounded after adding `sum_{i<k} U_ik e_i`, the errors so far. Scales are fitted by the
    format's own encoder to the weights with all earlier errors added, when their window of 256 columns is entered.
    Levels and scales are then improved by coordinate descent on the objective, and packed as they are.

    Args:
        w: weights `[rows, K]`.
        hessian: `[K, K]`, see `FactoredHessian`.
        format: a block format of `solver_formats()`.
        damp, act_order: see `FactoredHessian`.
        effort: `"fast"`, `"normal"` or `"best"`; see `EFFORTS`.
        importance: weights of columns in the searches for scales, `[K]`, above 0. It changes where scales start, not
            the objective.
        threads: number of threads, by default one per core. It does not change the result.

    Returns:
        The blocks. No row's loss is above that of the format's own encoder with diag(H) as importance matrix;
        `FactoredHessian.solve` tells both.

    Raises:
        ShapeError: shapes do not go together, or K is not a multiple of the block length.
        NonFiniteError: a weight is NaN or infinite.
        UnsupportedError: a format without a solver, or a Hessian that cannot be used.
    """
    factored = FactoredHessian(hessian, damp=damp, act_order=act_order, effort=effort, threads=threads)
    return factored.solve(w, format, importance=importance, threads=threads).tensor


@dataclass(frozen=True)
class IntegerGroups:
    """Weights as `scale * (code - zero)`, columns in groups.

    Attributes:
        codes: uint8 `[rows, K]`, in the order of columns.
        scales: float32 `[rows, groups]`.
        zeros: uint8 `[rows, groups]`.
        group_of: the group of each column, int32 `[K]`: `g_idx` of GPTQ checkpoints.
        bits: bits of a code.
    """

    codes: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    zeros: npt.NDArray[np.uint8]
    group_of: npt.NDArray[np.int32]
    bits: int

    def dequantize(self) -> npt.NDArray[np.float32]:
        """The weights as they read back, float32 `[rows, K]`."""
        offsets = self.codes.astype(np.float32) - self.zeros[:, self.group_of].astype(np.float32)
        return np.asarray(self.scales[:, self.group_of] * offsets, dtype=np.float32)


def gptq_groups(
    w: npt.ArrayLike,
    hessian: npt.ArrayLike,
    bits: int,
    group_size: int,
    *,
    sym: bool = True,
    act_order: bool = False,
    damp: float = 0.01,
    scale_type: str = "F32",
    least_zero: int = 0,
    threads: int | None = None,
) -> IntegerGroups:
    """GPTQ as published, into groups of integers (Frantar et al. 2022, algorithm 1), in double precision.

    With `R` the upper Cholesky factor of the inverse of the damped Hessian, columns are rounded one after the other,
    and `w_j -= (w_i - q_i) / R_ii * R_ij` for every later column j. A group's scale and zero point come from the range
    of its weights when its first column is reached.

    Args:
        w: weights `[rows, K]`.
        hessian: `[K, K]`.
        bits: bits of a code, 2 to 8.
        group_size: columns in a group; -1 for whole rows.
        sym: the zero point is the middle code, `2^(bits - 1)`.
        act_order: solve and group columns by falling diagonal of the Hessian (`desc_act`).
        damp: added to the diagonal, relative to its mean.
        scale_type: type in which scales are stored, "F32", "F16" or "BF16"; codes are found with the stored scales.
        least_zero: the smallest zero point that can be stored: 1 in the first version of the GPTQ format.
        threads: number of threads, by default one per core. It does not change the result.

    Raises:
        ShapeError: shapes do not go together.
        NonFiniteError: a weight is NaN or infinite.
        UnsupportedError: options out of range, a Hessian that is not positive definite with this damping, or a scale
            that is too large for its type.
    """
    weights = np.ascontiguousarray(w, dtype=np.float32)
    square = np.ascontiguousarray(hessian, dtype=np.float64)
    if weights.ndim != 2 or square.shape != (weights.shape[1], weights.shape[1]) or not square.size:
        raise ShapeError(f"weights of shape {weights.shape} do not go with a Hessian of shape {square.shape}")
    rows, columns = weights.shape
    if group_size == -1:
        group_size = columns
    if group_size < 1 or not 2 <= bits <= 8:
        raise UsageError(f"cannot quantize to {bits} bits in groups of {group_size}; 2 to 8 bits, groups of 1 or more")
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    codes, scales, zeros, group_of = _native.gptq_groups(
        weights.reshape(-1), square.reshape(-1), columns, bits, group_size, sym, act_order, damp, scale_type,
        least_zero, threads,
    )  # fmt: skip
    return IntegerGroups(
        codes.reshape(rows, columns),
        scales.reshape(rows, -1),
        zeros.reshape(rows, -1),
        group_of.astype(np.int32),
        bits,
    )


def solver_formats() -> tuple[str, ...]:
    """Names of the block formats that `gptq` can solve into."""
    return tuple(_solvers())


def vector_formats() -> tuple[str, ...]:
    """Those of them that choose several columns jointly, from a codebook."""
    return tuple(name for name, jointly in _solvers().items() if jointly)


@cache
def _solvers() -> dict[str, bool]:
    """Formats with a solver, and whether they choose columns jointly."""
    return dict(_native.gptq_formats())


def _effort(effort: Effort) -> tuple[int, int]:
    if effort not in EFFORTS:
        raise UsageError(f"unknown effort '{effort}'; there are {', '.join(EFFORTS)}")
    return EFFORTS[effort]


def _names() -> str:
    return ", ".join(solver_formats())

"""What solving a tensor gives: its blocks, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ggquant.tensor import QuantizedTensor


@dataclass(frozen=True)
class TensorReport:
    """What solving a tensor gave. Losses are sums over its rows of `e^T H e`, H being the mean over tokens.

    Attributes:
        name, format: of the tensor.
        nbytes: size of its blocks.
        rounded: loss of the format's own encoder when all columns count alike.
        weighted: loss of the format's own encoder with the importance matrix.
        solved: loss of the solution.
        seconds: time the solver took.
        damp: damping used; more than was asked for where the Hessian needed it.
        tokens: tokens behind the Hessian.
        note: anything out of the ordinary.
    """

    name: str
    format: str
    nbytes: int
    rounded: float
    weighted: float
    solved: float
    seconds: float
    damp: float
    tokens: int
    note: str = ""

    @classmethod
    def of_experts(cls, name: str, reports: Sequence[TensorReport]) -> TensorReport:
        """One report on the tensor that stacks those of all experts: sums, and the largest damping."""
        return cls(
            name=name,
            format=reports[0].format,
            nbytes=sum(r.nbytes for r in reports),
            rounded=sum(r.rounded for r in reports),
            weighted=sum(r.weighted for r in reports),
            solved=sum(r.solved for r in reports),
            seconds=sum(r.seconds for r in reports),
            damp=max(r.damp for r in reports),
            tokens=sum(r.tokens for r in reports),
            note="; ".join(r.note for r in reports if r.note),
        )


@dataclass(frozen=True)
class FoldReport:
    """What AWQ's scales are good for at one place, or why there are none.

    Attributes:
        readers: weights whose columns are scaled.
        maker: what takes up the reciprocals; empty where nothing can.
        exponents: `(a, b)` of `s = m^a / w^b`, see `awq_scales`; None without scales, and where experts differ.
        before: loss of the weights without scales.
        after: loss with them; never more.
        note: why there are no scales, or how many experts have some.
    """

    readers: tuple[str, ...]
    maker: str
    exponents: tuple[float, float] | None
    before: float
    after: float
    note: str


@dataclass(frozen=True)
class SolvedTensor:
    """A tensor ready to be stored.

    Attributes:
        name: its GGUF name.
        tensor: its blocks.
        importance: mean squares of its inputs' columns, flat over experts; None where there are none.
        report: what solving it gave.
    """

    name: str
    tensor: QuantizedTensor
    importance: npt.NDArray[np.float32] | None
    report: TensorReport

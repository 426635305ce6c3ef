"""What statistics do not cover: experts without tokens, weights without data, columns that stayed zero."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ggquant.calibration.statistics import Statistics

#: An expert's means over fewer tokens than this say little.
FEW_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Coverage:
    """How the experts of one stack were used.

    Attributes:
        tensor: name of the stack.
        tokens: tokens that each expert got.
    """

    tensor: str
    tokens: tuple[int, ...]

    @property
    def unseen(self) -> list[int]:
        """Experts that got no token: importances of 1 stand for theirs."""
        return [expert for expert, count in enumerate(self.tokens) if count == 0]

    @property
    def few(self) -> list[int]:
        """Experts that got fewer than 32 tokens, but some."""
        return [expert for expert, count in enumerate(self.tokens) if 0 < count < FEW_TOKENS]


@dataclass
class Gaps:
    """Everything about statistics that a user should know.

    Attributes:
        experts: stacks with experts that saw few tokens or none.
        missing: weights of the layers without any statistics.
        zero: weights some of whose columns only ever saw zeros, and how many.
        remarks: anything else.
    """

    experts: list[Coverage] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    zero: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The gaps as text, a line each."""
        out = list(self.remarks)
        for stack in self.experts:
            total = len(stack.tokens)
            if stack.unseen:
                out.append(
                    f"tensor '{stack.tensor}': {len(stack.unseen)} of {total} experts got no token "
                    f"({_numbers(stack.unseen)}); their columns count alike"
                )
            if stack.few:
                out.append(
                    f"tensor '{stack.tensor}': {len(stack.few)} of {total} experts got fewer than {FEW_TOKENS} tokens "
                    f"({_numbers(stack.few)})"
                )
        out += [f"tensor '{name}': no statistics" for name in self.missing]
        out += [f"tensor '{name}': {count} columns of its input were always zero" for name, count in self.zero.items()]
        return out


def find_gaps(statistics: Statistics, weights: Iterable[str]) -> Gaps:
    """Holds statistics against the names of the weights that should have some."""
    gaps = Gaps(missing=[name for name in weights if name not in statistics.entries])
    for name, entry in sorted(statistics.entries.items()):
        if len(entry.counts) > 1:
            coverage = Coverage(name, tuple(int(count) for count in entry.counts))
            if coverage.unseen or coverage.few:
                gaps.experts.append(coverage)
        seen = entry.rows()[entry.counts > 0]
        zero = int(np.count_nonzero(~seen.any(axis=0))) if len(seen) else 0
        if zero:
            gaps.zero[name] = zero
    return gaps


def _numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")

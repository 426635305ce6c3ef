"""Quantization methods as pure functions on arrays: GPTQ and AWQ."""

from __future__ import annotations

from ggquant.methods.gptq import (
    EFFORTS,
    Effort,
    FactoredHessian,
    GPTQResult,
    IntegerGroups,
    gptq,
    gptq_groups,
    solver_formats,
)

__all__ = [
    "EFFORTS",
    "Effort",
    "FactoredHessian",
    "GPTQResult",
    "IntegerGroups",
    "gptq",
    "gptq_groups",
    "solver_formats",
]

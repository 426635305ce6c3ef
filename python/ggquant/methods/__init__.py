"""Quantization methods as pure functions on arrays: GPTQ and AWQ."""

from __future__ import annotations

from ggquant.methods.awq import AWQScales, awq_scales
from ggquant.methods.clip import Clipped, awq_clip
from ggquant.methods.solver import (
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
    "AWQScales",
    "Clipped",
    "Effort",
    "FactoredHessian",
    "GPTQResult",
    "IntegerGroups",
    "awq_clip",
    "awq_scales",
    "gptq",
    "gptq_groups",
    "solver_formats",
]

"""Solving a model layer by layer, each seeing what the layers before it have become."""

from __future__ import annotations

from ggquant.layerwise.options import LayerwiseOptions
from ggquant.layerwise.report import SolvedTensor, TensorReport
from ggquant.layerwise.solve import solve_model

__all__ = ["LayerwiseOptions", "SolvedTensor", "TensorReport", "solve_model"]

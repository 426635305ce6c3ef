"""Recipes: which tensors take which format, as lines of a text file.

A line is `PATTERN = FORMAT`; what follows `#` is a comment. Patterns are those of `--tensor-type`, and the first that
matches wins. Unlike `--tensor-type` a recipe has the last word on every tensor that is quantized at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ggquant.errors import UsageError
from ggquant.overrides import TensorType
from ggquant.policy import requires_imatrix
from ggquant.tensor_types import FORMATS

if TYPE_CHECKING:
    from ggquant.planned import Plan
    from ggquant.policy import Decision, Variant


def parse_recipe(text: str) -> list[TensorType]:
    """Reads a recipe.

    Raises:
        UsageError: a line is not a pattern and a format; the message says which.
    """
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        said = line.partition("#")[0].strip()
        if not said:
            continue
        pattern, sep, format = (part.strip() for part in said.rpartition("="))
        if not (pattern and sep and format):
            raise UsageError(f"recipe, line {number}: '{said}' is not PATTERN = FORMAT")
        try:
            lines.append(TensorType(pattern, format))
        except UsageError as e:
            raise UsageError(f"recipe, line {number}: {e}") from None
    return lines


def write_recipe(plan: Plan) -> str:
    """The recipe that makes the planned file again: a line for every tensor, with the reason for its format."""
    head = [f"# {plan.source}", f"# {plan.variant}, {plan.bits_per_weight:.3f} bits per weight"]
    lines = [f"^{re.escape(t.name)}$ = {t.format}  # {_one_line(t.why)}" for t in plan.tensors]
    return "\n".join([*head, *lines, ""])


def apply_recipe(decisions: Iterable[Decision], recipe: Sequence[TensorType], variant: Variant) -> list[Decision]:
    """Gives tensors the formats of a recipe; those that no line matches keep theirs.

    Raises:
        UsageError: a tensor cannot take the format that the recipe gives it.
    """
    return [_applied(decision, recipe, variant) for decision in decisions]


def _applied(decision: Decision, recipe: Sequence[TensorType], variant: Variant) -> Decision:
    line = next((line for line in recipe if line.matches(decision.name)), None)
    if line is None or line.format == decision.format:
        return decision
    if not decision.quantizable:
        raise UsageError(
            f"recipe: tensor '{decision.name}' stays {decision.format} ({decision.why}), and cannot be {line.format}"
        )
    row = decision.shape[-1]
    if row % FORMATS[line.format].block_len:
        raise UsageError(
            f"recipe: tensor '{decision.name}': rows of {row} weights are not whole blocks of "
            f"{FORMATS[line.format].block_len} ({line.format}); give it another format"
        )
    needs = requires_imatrix(decision.name, line.format, variant)
    return replace(
        decision, wanted=line.format, format=line.format, why="recipe", fallback=None, requires_imatrix=needs
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())

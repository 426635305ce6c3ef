"""What stands in the way of carrying out decisions, found before any work is done, and what deserves a
warning."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from ..overrides import Options
from ..tensor_types import FORMATS, Kind
from .architectures import LLAMA_CPP_ARCHITECTURES
from .facts import ModelFacts
from .policy import Decision
from .table import Variant, find_variant

__all__ = ["Obstacle", "Refusal", "refusals", "warnings"]


class Obstacle(Enum):
    """The kinds of obstacle. Dry runs may report IMATRIX and REQUANTIZE and go on."""

    IMATRIX = "imatrix"
    REQUANTIZE = "requantize"
    SOURCE = "source"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One tensor that cannot be converted as decided."""

    kind: Obstacle
    tensor: str
    message: str


def refusals(
    decisions: Iterable[Decision], *, imatrix: bool | Collection[str] = False, options: Options | None = None
) -> list[Refusal]:
    """Every tensor that llama-quantize would stop at, and with `no_fallback` every one that takes another
    format.

    `imatrix` is True for one whose entries are not looked at, or the names it has data for (as in the input
    model).
    """
    opts = options or Options()
    found: list[Refusal] = []
    for d in decisions:
        if not d.quantizable:
            continue

        def refuse(kind: Obstacle, message: str, d: Decision = d) -> None:
            found.append(Refusal(kind, d.name, f"tensor '{d.name}': {message}"))

        if d.requires_imatrix and not imatrix:
            refuse(
                Obstacle.IMATRIX,
                f"{d.format} needs an importance matrix; make one, or choose a variant that works without",
            )
        elif d.requires_imatrix and d.dtype != d.format and imatrix is not True and d.source not in _names(imatrix):
            refuse(
                Obstacle.IMATRIX,
                f"{d.format} needs importances, and the imatrix has no data for '{d.source}'",
            )
        if d.dtype != d.format:
            source = FORMATS[d.dtype].kind if d.dtype in FORMATS else Kind.OTHER
            if source is Kind.OTHER:
                refuse(Obstacle.SOURCE, f"{d.dtype} cannot be converted to {d.format}")
            elif source is not Kind.FLOAT and not opts.allow_requantize:
                refuse(
                    Obstacle.REQUANTIZE,
                    f"it is {d.dtype} already; quantize from a 16- or 32-bit file, or accept the loss with "
                    "--allow-requantize",
                )
        if d.fallback is not None and opts.no_fallback:
            refuse(Obstacle.FALLBACK, f"{d.fallback}; {d.format} would take its place")
    return found


def _names(imatrix: bool | Collection[str]) -> Collection[str]:
    return () if isinstance(imatrix, bool) else imatrix


def warnings(
    facts: ModelFacts,
    decisions: Sequence[Decision],
    variant: str | Variant,
    *,
    options: Options | None = None,
) -> list[str]:
    """What a user should hear of though nothing stops: an unknown architecture, options without effect."""
    chosen = find_variant(variant) if isinstance(variant, str) else variant
    opts = options or Options()
    said: list[str] = []
    if facts.arch not in LLAMA_CPP_ARCHITECTURES:
        said.append(
            f"llama.cpp does not know the architecture '{facts.arch}' and would refuse the file; its tensors "
            "follow the general rules"
        )
    if opts.patterns and FORMATS[chosen.format].kind is Kind.FLOAT:
        said.append(f"--tensor-type has no effect on {chosen.name}, as in llama-quantize")
    else:
        said.extend(
            f"--tensor-type {t} matches no tensor that can be quantized"
            for t in opts.patterns
            if not any(d.quantizable and t.matches(d.name) for d in decisions)
        )
    if opts.output_tensor_type and not any(d.name == "output.weight" for d in decisions):
        said.append(
            "--output-tensor-type: the model has no output.weight; its token embeddings, which serve as one, "
            "are concerned" if FORMATS[chosen.format].kind is Kind.BLOCK else
            "--output-tensor-type: the model has no output.weight"
        )  # fmt: skip
    return said

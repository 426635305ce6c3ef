"""Writes docs/variants.md from the tables: `python -m ggquant.policy.docs > docs/variants.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from ..tensor_types import FALLBACK, FORMATS, Kind
from .explain import EVERYTHING_ELSE, Explanation, explain
from .facts import LAYERS_OF_70B
from .table import ARCH_FLOOR, VARIANTS
from .tensors import KEPT, KEPT_FOR_ARCH, Kept

__all__ = ["page"]

_INTRODUCTION = """\
# Variants

<!-- Written by `python -m ggquant.policy.docs`; change the tables in python/ggquant/policy instead. -->

A **variant** such as Q4_K_M is a recipe for a whole file; a **format** such as Q4_K is how one tensor is
stored. Most weight matrices of a Q4_K_M file are in Q4_K, and some that matter more are in Q6_K. The
decisions are those of llama.cpp's `llama-quantize`, tensor by tensor. Names are accepted in any case; so
are the numbers.

Bits per weight are those of the format; in the next column those of a whole file of Llama-3.1-8B, as
published in llama.cpp's tools/quantize/README.md. The increase of perplexity is what `llama-quantize
--help` prints, for Llama-3-8B (F16 and BF16: Mistral-7B). Variants marked *ours* are a habit of people who
publish models: their Q8_0 tensors can be asked of `llama-quantize` by options, and `general.file_type` is
that of the variant they are spelled after.
"""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'|'.join(['---'] * len(head))}|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def _overview(explanations: Sequence[Explanation]) -> list[str]:
    def row(e: Explanation) -> tuple[str, ...]:
        name = f"[{e.name}](#{e.name.lower()})"
        return (
            name + "".join(f", {alias}" for alias in e.aliases) + (" (*ours*)" if e.base else ""),
            "" if e.name == "COPY" else str(e.file_type),
            "" if e.name == "COPY" else f"{e.bits:g}",
            "" if e.bits_8b is None else f"{e.bits_8b:.2f}",
            "" if e.perplexity is None else f"{e.perplexity.increase:+.4f}",
            "needed" if e.needs_imatrix else "",
            e.summary,
        )

    head = ("variant", "number", "bits", "Llama-3.1-8B", "perplexity", "imatrix", "what it stores")
    return _table(head, map(row, explanations))


def _section(e: Explanation) -> list[str]:
    lines = [f"## {e.name}", "", e.advice.when, ""]
    lines += [f"- **{piece}**: {meaning}" for piece, meaning in e.parts] + [""]
    if e.exemptions:
        whole = any(x.tensors == EVERYTHING_ELSE for x in e.exemptions)
        lines += ["Formats by tensor:" if whole else f"Every weight matrix is {e.format}, except:", ""]
        lines += _table(("tensors", "format", "when"), ((x.tensors, x.format, x.when) for x in e.exemptions))
    if e.advice.instead:
        lines += ["Instead: " + "; ".join(f"{name} ({why})" for name, why in e.advice.instead) + ".", ""]
    return lines


def _kept(tensors: Iterable[Kept]) -> list[tuple[str, str]]:
    """Rows of name parts by reason."""
    by_reason: dict[str, list[str]] = {}
    for kept in tensors:
        by_reason.setdefault(kept.reason, []).append(f"=`{kept.part}`" if kept.whole else f"`{kept.part}`")
    return [(", ".join(parts), reason) for reason, parts in by_reason.items()]


_READING = """\
# For every variant

Of a tensor's lines the first that applies counts; one that replaces applies to what the others give.
Tensors are counted in the order of the file: by layer, then by name. In models with experts the layer
of a feed-forward tensor is read from its name instead.

**What stays as it is**: tensors of one dimension, those whose names do not end in `weight`, and those
whose names contain (or are, where marked with =):
"""


def _rules_for_all() -> list[str]:
    blocks = [f for f in FORMATS.values() if f.kind is Kind.BLOCK]
    small = ", ".join(f.name for f in blocks if f.block_len <= 32)
    none = " and ".join(f.name for f in blocks if f.block_len > 32 and f.name not in FALLBACK)
    layers = ", ".join(f"{n} in {arch}" for arch, n in LAYERS_OF_70B.items())
    lines = [_READING, *_table(("name contains", "because"), _kept(KEPT))]
    for arch, kept in KEPT_FOR_ARCH.items():
        lines += [f"In {arch} also:", "", *_table(("name contains", "because"), _kept(kept))]
    for arch, (fmt, parts) in ARCH_FLOOR.items():
        names = ", ".join(f"`{part}`" for part in parts)
        lines += [f"In {arch} tensors named {names} are {fmt} in every quantized variant.", ""]
    lines += ["**When blocks do not divide a row** another format takes its place:", ""]
    lines += _table(("instead of", "comes"), FALLBACK.items())
    lines += [
        f"F16 comes where that does not fit either, and instead of {small}.",
        f"{none} have no stand-in: such a tensor is an error.",
        "",
        f"**The 70B size** is a number of layers: {layers}; in llama only with grouped key/value heads and",
        "without 8 experts.",
        "",
    ]
    return lines


def page() -> str:
    """The whole page."""
    explanations = [explain(variant) for variant in VARIANTS.values()]
    lines = [_INTRODUCTION, *_overview(explanations), *_rules_for_all()]
    lines += ["# Variant by variant", ""]
    for e in explanations:
        lines += _section(e)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())

"""Commands that explain: `variants` and `formats`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggquant.cli import render
from ggquant.cli.outcome import say_warning
from ggquant.cli.text import size

if TYPE_CHECKING:
    from ggquant.policy import Variant

_Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]


def variants(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A variant to explain.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--for",
            metavar="SRC",
            help="Show the size that each variant would have of this checkpoint or GGUF file.",
        ),
    ] = None,
    json_output: _Json = False,
) -> None:
    """List the variants, explain one, or show the size each would have of a model."""
    from ggquant.policy import VARIANTS, find_variant

    chosen = list(VARIANTS.values()) if name is None else [find_variant(name)]
    if checkpoint is not None:
        _sizes(chosen, checkpoint, json_output=json_output)
    elif json_output:
        print(json.dumps([_facts(variant) for variant in chosen]))
    elif name is None:
        rows = ((v.name, str(v.file_type), v.format, ", ".join(aliases(v)), exceptions(v)) for v in chosen)
        render.console().print(
            render.table(("variant", "number", "format", "also called", "exceptions"), rows, right=("number",))
        )
    else:
        _explain(chosen[0])


def formats(json_output: _Json = False) -> None:
    """List the block formats."""
    import ggquant as gg

    known = gg.formats()
    if json_output:
        print(json.dumps([asdict(info) for info in known]))
        return
    rows = (
        (
            f.name,
            str(f.ggml_type),
            f"{f.bits_per_weight:.4g}",
            str(f.block_len),
            str(f.block_bytes),
            f.imatrix,
            f.summary,
        )
        for f in known
    )
    numbers = ("ggml type", "bits/weight", "block", "bytes")
    render.console().print(render.table(("format", *numbers, "imatrix", "what"), rows, right=numbers))


def _sizes(chosen: list[Variant], checkpoint: Path, *, json_output: bool) -> None:
    """Plans every variant; one that the model cannot have is shown with the reason."""
    import ggquant as gg

    facts: list[dict[str, object]] = []
    for variant in chosen:
        try:
            plan = gg.plan(checkpoint, variant.name)
        except gg.ImatrixError as error:
            facts.append({"variant": variant.name, "error": str(error)})
            continue
        facts.append(
            {
                "variant": variant.name,
                "total_bytes": plan.total_bytes,
                "bits_per_weight": plan.bits_per_weight,
                "fallbacks": len(plan.fallbacks),
            }
        )
    if json_output:
        print(json.dumps(facts))
        return
    rows = []
    for fact in facts:
        if "error" in fact:
            say_warning(f"{fact['variant']}: {fact['error']}")
            continue
        total, bits = fact["total_bytes"], fact["bits_per_weight"]
        assert isinstance(total, int) and isinstance(bits, float)
        rows.append((str(fact["variant"]), size(total), f"{bits:.3f}", str(fact["fallbacks"])))
    columns = ("size", "bits/weight", "fallbacks")
    render.console().print(render.table(("variant", *columns), rows, right=columns))


def _explain(variant: Variant) -> None:
    if variant.copies:
        print(f"{variant.name}: every tensor as it is in the input")
        return
    if _is_float(variant):
        print(f"{variant.name}: file type {variant.file_type}, {variant.format} for every weight matrix")
        return
    print(f"{variant.name}: file type {variant.file_type}, {variant.format} for every weight matrix, except")
    rows = [
        (category.value, rule.format, rule.when.text) for category, rules in variant.rules.items() for rule in rules
    ]
    rows += [("all others", rule.format, rule.when.text) for rule in variant.otherwise]
    rows.append(("output", variant.fixed_output or variant.output, "always"))
    embedding = variant.fixed_embedding or variant.embedding
    if embedding is not None:
        rows.append(("token_embd", embedding, "always"))
    render.console().print(render.table(("tensors", "format", "when"), rows))


def aliases(variant: Variant) -> list[str]:
    """Other names of a variant."""
    from ggquant.policy import ALIASES

    return sorted(alias for alias, name in ALIASES.items() if name == variant.name)


def _is_float(variant: Variant) -> bool:
    """Whether the variant stores all matrices as plain floats, in which case it has no exceptions."""
    from ggquant.tensor_types import FORMATS, Kind

    return FORMATS[variant.format].kind is Kind.FLOAT


def exceptions(variant: Variant) -> str:
    """The formats besides the variant's own that its rules may use."""
    if variant.copies or _is_float(variant):
        return ""
    used = {rule.format for rules in variant.rules.values() for rule in rules}
    used |= {rule.format for rule in variant.otherwise}
    used |= {f for f in (variant.fixed_output or variant.output, variant.fixed_embedding, variant.embedding) if f}
    return ", ".join(sorted(used - {variant.format}))


def _facts(variant: Variant) -> dict[str, object]:
    rules = [
        {"tensors": category.value, "format": rule.format, "when": rule.when.text}
        for category, found in variant.rules.items()
        for rule in found
    ]
    return {
        "name": variant.name,
        "file_type": variant.file_type,
        "format": variant.format,
        "aliases": aliases(variant),
        "output": variant.fixed_output or variant.output,
        "token_embedding": variant.fixed_embedding or variant.embedding or variant.format,
        "rules": rules,
    }

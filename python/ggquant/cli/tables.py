"""Commands that explain: `variants` and `formats`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ggquant.cli import render
from ggquant.cli.outcome import say_warning
from ggquant.cli.text import size

_Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]


def variants(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A variant to explain.")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--for",
            metavar="SRC",
            help="Show the size that each variant would have of this checkpoint or GGUF, and the memory to run it.",
        ),
    ] = None,
    context: Annotated[
        int, typer.Option("--context", min=1, metavar="N", help="With --for: tokens that the KV cache is to hold.")
    ] = 4096,
    json_output: _Json = False,
) -> None:
    """List the variants, explain one, or show the size each would have of a model."""
    from ggquant import policy

    chosen = list(policy.VARIANTS.values()) if name is None else [policy.find_variant(name)]
    if checkpoint is not None:
        _sizes([variant.name for variant in chosen], checkpoint, context, json_output=json_output)
        return
    explained = [policy.explain(variant) for variant in chosen]
    if json_output:
        print(json.dumps([asdict(e) for e in explained]))
    elif name is not None:
        print(policy.render(explained[0]), end="")
    else:
        rows = (
            (
                e.name,
                str(e.file_type),
                f"{e.bits:g}",
                "needed" if e.needs_imatrix else "",
                e.summary,
                ", ".join(e.aliases),
            )
            for e in explained
        )
        columns = ("variant", "number", "bits", "imatrix", "what it stores", "also called")
        render.console().print(render.table(columns, rows, right=("number", "bits")))


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


def _sizes(names: Sequence[str], checkpoint: Path, context: int, *, json_output: bool) -> None:
    """What each variant makes of a model, from its headers; one that cannot be made is named with the reason."""
    from ggquant import policy
    from ggquant.sources import load_model

    model = load_model(checkpoint)
    headers = [policy.TensorHeader(t.name, t.shape, t.dtype) for t in model.tensors]
    facts = policy.ModelFacts.from_metadata(model.metadata, [t.name for t in model.tensors], arch=model.arch)
    cache = policy.kv_cache_bytes(policy.CacheFacts.from_metadata(model.metadata), context)
    found = policy.sizes(headers, facts, variants=names)
    if json_output:
        print(json.dumps([_size_facts(s, cache) for s in found]))
        return
    for s in found:
        if s.problem is not None:
            say_warning(f"{s.variant}: {s.problem}")
    rows = (
        (
            s.variant,
            size(s.data_bytes),
            f"{s.bits_per_weight:.3f}",
            size(s.data_bytes + cache),
            str(s.fallbacks),
            "needed" if s.needs_imatrix else "",
        )
        for s in found
        if s.problem is None
    )
    columns = ("variant", "weights", "bits/weight", "memory", "fallbacks", "imatrix")
    render.console().print(render.table(columns, rows, right=columns[1:5]))
    print(f"\nmemory: weights and a KV cache of {size(cache)} for {context} tokens in F16; working buffers come on top")


def _size_facts(found: Any, cache: int) -> dict[str, object]:
    if found.problem is not None:
        return {"variant": found.variant, "problem": found.problem}
    return {
        "variant": found.variant,
        "total_bytes": found.data_bytes,
        "bits_per_weight": found.bits_per_weight,
        "kv_cache_bytes": cache,
        "fallbacks": found.fallbacks,
        "needs_imatrix": found.needs_imatrix,
    }

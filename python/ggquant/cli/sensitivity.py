"""`ggquant sensitivity`: what each tensor costs when it alone is quantized."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggquant.cli import render
from ggquant.cli.progress import work_progress
from ggquant.cli.text import printable

if TYPE_CHECKING:
    from ggquant.evaluation.alone import Sensitivity


def sensitivity(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint's folder, or a GGUF file.")],
    text: Annotated[list[Path], typer.Argument(metavar="TEXT...", help="Text files.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the costs to a JSON file.")
    ] = None,
    formats: Annotated[
        str, typer.Option("--formats", metavar="F1,F2,...", help="Block formats to try.")
    ] = "Q2_K,Q3_K,Q4_K,Q5_K,Q6_K,Q8_0",
    tensors: Annotated[
        list[str] | None,
        typer.Option("--tensors", metavar="PATTERN", help="Only tensors in whose names it is found. Repeatable."),
    ] = None,
    imatrix: Annotated[
        Path | None, typer.Option("--imatrix", metavar="FILE", help="Quantize with these importances.")
    ] = None,
    layer_output: Annotated[
        bool,
        typer.Option(
            "--layer-output", help="Look at the output of the tensor's layer alone, not at predictions: faster."
        ),
    ] = False,
    context: Annotated[int, typer.Option("-c", "--ctx-size", metavar="N", help="Tokens in a chunk.")] = 512,
    chunks: Annotated[int, typer.Option("--chunks", metavar="N", help="Use only the first N chunks.")] = 4,
    memory: Annotated[
        int | None, typer.Option("--memory", metavar="MB", min=1, help="Most megabytes of memory to use.")
    ] = None,
    threads: Annotated[int | None, typer.Option("-t", "--threads", metavar="N", help="Number of threads.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Find out which tensors suffer most: quantize each alone, and measure what it does to the model.

    The numbers are KL divergences of the predictions, or with --layer-output relative errors.
    """
    import ggquant as gg
    from ggquant.text_files import refuse_existing, write_text

    if output is not None:
        refuse_existing(output, overwrite=overwrite)
    with work_progress(quiet=quiet or json_output) as progress:
        made = gg.sensitivity(
            model,
            text,
            formats=[name for name in formats.split(",") if name],
            tensors=tensors or [],
            imatrix=imatrix,
            divergence=not layer_output,
            context=context,
            chunks=chunks,
            threads=threads,
            memory=None if memory is None else memory * 1_000_000,
            progress=progress,
        )
    facts = _facts(made)
    if output is not None:
        write_text(output, json.dumps(facts, indent=1) + "\n", overwrite=overwrite)
    if json_output:
        print(json.dumps(facts))
        return
    _show(made)
    if output is not None:
        print(printable(str(output)))


def _facts(made: Sensitivity) -> dict[str, Any]:
    return asdict(made) | {"version": 1}


def _show(made: Sensitivity) -> None:
    names = list(dict.fromkeys(name for t in made.tensors for name in t.formats))
    rows = [
        (t.name, render.shape(t.shape), *(_text(made, i, name) for name in names)) for i, t in enumerate(made.tensors)
    ]
    render.console().print(render.table(("tensor", "shape", *names), rows, right=("shape", *names)))
    print(f"\n{made.tokens:,} tokens scored in {made.chunks} chunks of {made.n_ctx}, {made.seconds:.1f} s")


def _text(made: Sensitivity, number: int, name: str) -> str:
    cost = made.tensors[number].formats.get(name)
    if cost is None:
        return ""
    return f"{100 * cost.output_error:.3f} %" if cost.kld is None else f"{cost.kld:.6f}"

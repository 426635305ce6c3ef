"""`ggquant transcode`: packed weights into another form without rounding, and the proof of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ggquant.cli import render
from ggquant.cli.outcome import FAILED
from ggquant.cli.progress import conversion_progress
from ggquant.cli.text import printable
from ggquant.errors import UsageError


def transcode(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A packed checkpoint folder, or a GGUF file.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="A GGUF file, or a folder.")],
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: compare the two, which exist already, value by value.")
    ] = False,
    to: Annotated[
        str | None,
        typer.Option("--to", help="Layout of a folder: gptq, gptq_v2, awq, compressed-tensors.", metavar="LAYOUT"),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option("--like", help="For a GGUF source: a checkpoint of the same model.", metavar="DIR"),
    ] = None,
    pre: Annotated[
        str | None, typer.Option("--pre", help="Name of the pre-tokenizer, where it cannot be found.", metavar="NAME")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Number of threads.", metavar="N")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:
    """Move quantized weights to another container with the codes and scales they have.

    To a GGUF file, each matrix takes the format that holds its codes, and everything else stays in full precision; what
    no format holds is an error. With --check, exits with 1 if any value differs.
    """
    if check:
        _check(source, destination, pre, threads, json_output=json_output, quiet=quiet)
        return
    with conversion_progress(quiet=quiet or json_output) as progress:
        if destination.suffix == ".gguf":
            from ggquant.packed.exact import transcode_to_gguf

            kinds = transcode_to_gguf(
                source, destination, pre=pre, threads=threads, overwrite=overwrite, progress=progress
            )
        else:
            from ggquant.export.run import export_checkpoint
            from ggquant.export.scheme import find_layout

            if to is None:
                raise UsageError(f"{destination}: name the layout of the folder with --to, or a .gguf file")
            report = export_checkpoint(
                source,
                destination,
                find_layout(to),
                method="keep",
                like=like,
                threads=threads,
                overwrite=overwrite,
                progress=progress,
            )
            kinds = {module.name: module.how for module in report.modules}
    if json_output:
        print(json.dumps({"path": str(destination), "tensors": kinds}))
    elif not quiet:
        exact = sum(kind == "exact" for kind in kinds.values())
        print(f"{exact} of {len(kinds)} matrices exact")
        for name, kind in kinds.items():
            if kind != "exact":
                print(f"  {printable(name)}: {kind}")
        print(printable(str(destination)))


def _check(
    source: Path, destination: Path, pre: str | None, threads: int | None, *, json_output: bool, quiet: bool
) -> None:
    from ggquant.packed.check import compare_values

    found = list(compare_values(source, destination, pre=pre, threads=threads))
    differing = [tensor for tensor in found if not tensor.equal]
    if json_output:
        facts = [
            {
                "tensor": tensor.tensor,
                "forms": list(tensor.forms),
                "equal": tensor.equal,
                "max_error": tensor.max_error,
                "differing": tensor.differing,
            }
            for tensor in found
        ]
        print(json.dumps({"equal": not differing, "tensors": facts}))
    elif not quiet:
        rows = ((t.tensor, *t.forms, f"{t.max_error:.3g}", f"{t.differing:,}") for t in differing)
        if differing:
            columns = ("tensor", "first", "second", "max error", "values that differ")
            render.console().print(render.table(columns, rows, right=("max error", "values that differ")))
        print(f"{len(found) - len(differing)} of {len(found)} tensors are equal")
    if differing:
        raise typer.Exit(FAILED)

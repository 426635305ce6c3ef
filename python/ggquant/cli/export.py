"""`ggquant export`: a model in, a checkpoint folder for GPU servers out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggquant.cli import render
from ggquant.cli.outcome import say_warning
from ggquant.cli.progress import conversion_progress
from ggquant.cli.text import parse_size, printable, size

if TYPE_CHECKING:
    from ggquant.export.run import ExportReport
    from ggquant.export.scheme import Scheme


def export(
    source: Annotated[
        Path,
        typer.Argument(metavar="SRC", help="A checkpoint folder, in full precision or packed; or a GGUF file."),
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The folder to make.")],
    to: Annotated[
        str, typer.Option("--to", help="Layout: gptq, gptq_v2, awq or compressed-tensors.", metavar="LAYOUT")
    ],
    bits: Annotated[int | None, typer.Option("--bits", help="Bits of a code [default: 4].", metavar="2|3|4|8")] = None,
    group_size: Annotated[
        int | None,
        typer.Option("--group-size", help="Inputs that share a scale, -1 for rows [default: 128].", metavar="N"),
    ] = None,
    symmetric: Annotated[
        bool | None, typer.Option("--sym/--asym", help="Symmetric groups [default: --sym, for awq --asym].")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="rtn rounds to nearest; keep takes over the codes of weights that are quantized already "
            "[default: keep where possible].",
            metavar="METHOD",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like", help="For a GGUF file: a checkpoint of the same model, for names and files.", metavar="DIR"
        ),
    ] = None,
    skip: Annotated[
        str | None, typer.Option("--skip", help="Keep modules as they are in which this is found.", metavar="REGEX")
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", help="Most bytes of tensors in a file.", metavar="N(M|G)")
    ] = "5G",
    threads: Annotated[int | None, typer.Option("--threads", help="Number of threads.", metavar="N")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing checkpoint.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:
    """Write a model in the layout of GPTQ, AWQ or compressed-tensors, as vLLM, SGLang and transformers load it.

    The folder appears when it is whole. Weights that are quantized already keep their codes and scales wherever the
    layout can hold them.
    """
    from ggquant.export.run import export_checkpoint
    from ggquant.export.scheme import find_layout, find_method

    layout = find_layout(to)
    with conversion_progress(quiet=quiet or json_output) as progress:
        report = export_checkpoint(
            source,
            destination,
            layout,
            scheme=_scheme(to, bits, group_size, symmetric),
            method=find_method(method),
            like=like,
            skip=skip,
            max_shard_bytes=parse_size(max_shard_size) or 0,
            overwrite=overwrite,
            threads=threads,
            progress=progress,
        )
    _show(report, json_output=json_output, quiet=quiet)


def _scheme(to: str, bits: int | None, group_size: int | None, symmetric: bool | None) -> Scheme | None:
    from ggquant.export.scheme import Scheme

    if bits is None and group_size is None and symmetric is None:
        return None
    return Scheme(
        4 if bits is None else bits,
        128 if group_size is None else group_size,
        to != "awq" if symmetric is None else symmetric,
    )


def _show(report: ExportReport, *, json_output: bool, quiet: bool) -> None:
    for warning in report.warnings:
        say_warning(warning)
    if json_output:
        print(json.dumps(_facts(report)))
    elif not quiet:
        rows = (
            (
                module.name,
                render.shape(module.shape),
                str(module.bits),
                "row" if module.group_size == -1 else str(module.group_size),
                "sym" if module.symmetric else "asym",
                module.how,
                f"{module.max_error:.3g}",
            )
            for module in report.modules
        )
        columns = ("module", "shape", "bits", "group", "grid", "how", "max error")
        render.console().print(render.table(columns, rows, right=("shape", "bits", "group", "max error")))
        exact = sum(module.how == "exact" for module in report.modules)
        print(
            f"\n{len(report.modules)} modules quantized ({exact} with the codes they had), {len(report.kept)} kept, "
            f"{size(report.total_bytes)} in {report.seconds:.2f} s\n{printable(str(report.path))}"
        )


def _facts(report: ExportReport) -> dict[str, Any]:
    return {
        "path": str(report.path),
        "layout": report.layout,
        "modules": [
            {
                "name": module.name,
                "shape": list(module.shape),
                "bits": module.bits,
                "group_size": module.group_size,
                "symmetric": module.symmetric,
                "how": module.how,
                "max_error": module.max_error,
            }
            for module in report.modules
        ],
        "kept": report.kept,
        "total_bytes": report.total_bytes,
        "seconds": report.seconds,
        "warnings": report.warnings,
    }

"""`ggquant export`: a model in, a checkpoint folder for GPU servers out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggquant.cli import render
from ggquant.cli.method import is_sequential, pass_progress, show_needs
from ggquant.cli.outcome import say_warning
from ggquant.cli.progress import conversion_progress
from ggquant.cli.text import parse_size, printable, size
from ggquant.errors import UsageError

if TYPE_CHECKING:
    from ggquant.export.calibrated import Calibration
    from ggquant.export.run import ExportReport
    from ggquant.export.scheme import Scheme
    from ggquant.layerwise.watch import LayerwiseProgress

_method = partial(typer.Option, rich_help_panel="Methods")


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
            help="rtn rounds to nearest; gptq, awq and awq+gptq quantize layer by layer with text; keep takes "
            "over the codes of weights that are quantized already [default: keep where possible].",
            metavar="METHOD",
        ),
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        _method("--calibration", help="Text to calibrate with, by default the package's. Repeatable.", metavar="FILE"),
    ] = None,
    chunks: Annotated[
        int | None, _method("--chunks", help="Most chunks of text to use, by default all.", metavar="N", min=1)
    ] = None,
    context: Annotated[int, _method("--context", "-c", help="Tokens in a chunk.", metavar="N", min=2)] = 512,
    seed: Annotated[
        int | None, _method("--seed", help="Choose the chunks at random, reproducibly.", metavar="N")
    ] = None,
    damp: Annotated[
        float | None,
        _method("--damp", help="Added to the diagonal of Hessians, relative to its mean [default: 0.03].", metavar="X"),
    ] = None,
    act_order: Annotated[
        bool, _method("--act-order", help="GPTQ: solve and group inputs by falling size (desc_act).")
    ] = False,
    sequential: Annotated[
        bool | None,
        _method(
            "--sequential/--no-sequential",
            help="Later modules see the quantized earlier ones (the default, but not with --hessians).",
        ),
    ] = None,
    hessians: Annotated[
        Path | None,
        _method(
            "--hessians",
            help="Solve with the Hessians in this file, those of the full-precision model; collect them first where it "
            "is not there.",
            metavar="FILE",
        ),
    ] = None,
    pre: Annotated[
        str | None, _method("--pre", help="Name of the pre-tokenizer, where it cannot be found.", metavar="NAME")
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
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Keep what is done when interrupted, and go on from what an earlier --resume run left."
        ),
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:
    """Write a model in the layout of GPTQ, AWQ or compressed-tensors, as vLLM, SGLang and transformers load it.

    The folder appears when it is whole. Weights that are quantized already keep their codes and scales wherever the
    layout can hold them.
    """
    from ggquant.export.run import export_checkpoint
    from ggquant.export.scheme import CALIBRATED, find_layout, find_method

    layout, chosen = find_layout(to), find_method(method)
    used = calibration or chunks or seed is not None or damp is not None or act_order or pre
    used = used or sequential is not None or hessians is not None
    if used and chosen not in CALIBRATED:
        raise UsageError(f"options of calibration go with --method {', '.join(CALIBRATED)}")
    silent = quiet or json_output
    with (
        pass_progress(quiet=silent or chosen not in CALIBRATED) as solving,
        conversion_progress(quiet=silent) as progress,
    ):
        report = export_checkpoint(
            source,
            destination,
            layout,
            scheme=_scheme(to, bits, group_size, symmetric),
            method=chosen,
            calibration=_calibration(
                calibration, chunks, context, seed, damp, act_order, sequential, hessians, pre, solving
            )
            if chosen in CALIBRATED
            else None,
            like=like,
            skip=skip,
            max_shard_bytes=parse_size(max_shard_size) or 0,
            overwrite=overwrite,
            resume=resume,
            threads=threads,
            progress=None if chosen in CALIBRATED else progress,
        )
    _show(report, json_output=json_output, quiet=quiet)


def _calibration(
    texts: list[Path] | None,
    chunks: int | None,
    context: int,
    seed: int | None,
    damp: float | None,
    act_order: bool,
    sequential: bool | None,
    hessians: Path | None,
    pre: str | None,
    progress: Callable[[LayerwiseProgress], None] | None,
) -> Calibration:
    from ggquant.export.calibrated import Calibration

    if damp is not None and not 0 <= damp < float("inf"):
        raise UsageError(f"--damp {damp}: a number of at least 0 is needed")
    made = Calibration(
        tuple(texts or ()), chunks, context, seed, 0.03, act_order, is_sequential(sequential, hessians), hessians, pre,
        None if progress is None else show_needs, progress,
    )  # fmt: skip
    return made if damp is None else replace(made, damp=damp)


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
                "" if module.gain is None else f"x{module.gain:.2f}",
            )
            for module in report.modules
        )
        columns = ("module", "shape", "bits", "group", "grid", "how", "max error", "gain")
        render.console().print(render.table(columns, rows, right=("shape", "bits", "group", "max error", "gain")))
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
                "gain": module.gain,
            }
            for module in report.modules
        ],
        "kept": report.kept,
        "total_bytes": report.total_bytes,
        "calibration_tokens": report.tokens,
        "seconds": report.seconds,
        "warnings": report.warnings,
    }

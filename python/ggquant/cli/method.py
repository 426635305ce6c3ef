"""`ggquant quantize --method`: the pass over the layers, its progress and its report."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ggquant.cli import render
from ggquant.cli.progress import conversion_progress
from ggquant.cli.text import duration, printable, size
from ggquant.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table

    from ggquant.layerwise.convert import LayerwiseReport
    from ggquant.layerwise.needs import Needs
    from ggquant.layerwise.options import Method
    from ggquant.layerwise.report import FoldReport
    from ggquant.layerwise.watch import LayerwiseProgress
    from ggquant.methods.solver import Effort
    from ggquant.pipeline import ConversionReport
    from ggquant.policy import Options


def solve(
    source: Path,
    destination: Path | None,
    variant: str,
    *,
    method: str,
    calibration: Sequence[Path],
    chunks: int | None,
    context: int,
    effort: str,
    damp: float | None,
    sequential: bool | None,
    hessians: Path | None,
    seed: int | None,
    options: Options,
    pre: str | None,
    threads: int | None,
    overwrite: bool,
    resume: bool,
    report_file: Path | None,
    quiet: bool,
) -> ConversionReport:
    """Quantizes by a method, showing progress and a table of what each tensor gained.

    Raises:
        UsageError: an unknown method or effort, or damping that is not a number of at least 0.
    """
    from ggquant.layerwise.convert import quantize_by_gptq
    from ggquant.layerwise.options import LayerwiseOptions
    from ggquant.text_files import write_text

    if damp is not None and not 0 <= damp < float("inf"):
        raise UsageError(f"--damp {damp}: a number of at least 0 is needed")
    how = LayerwiseOptions.of(cast("Effort", effort), cast("Method", method))
    if damp is not None:
        how = replace(how, damp=damp)
    how = replace(how, sequential=is_sequential(sequential, hessians))
    with pass_progress(quiet=quiet) as solving, conversion_progress(quiet=quiet) as writing:
        report = quantize_by_gptq(
            source,
            destination,
            variant,
            method=how,
            calibration=calibration,
            chunks=chunks,
            context=context,
            seed=seed,
            hessians=hessians,
            options=options,
            pre=pre,
            threads=threads,
            overwrite=overwrite,
            resume=resume,
            starting=None if quiet else show_needs,
            solving=solving,
            writing=writing,
        )
    if report_file is not None:
        write_text(report_file, json.dumps(report.as_json(), indent=1) + "\n", overwrite=overwrite)
    if not quiet:
        _show(report)
    return report.conversion


def is_sequential(asked: bool | None, hessians: Path | None) -> bool:
    """Whether later layers see the quantized earlier ones: by default, but not with a file of Hessians.

    Raises:
        UsageError: asked for together with a file.
    """
    if asked and hessians is not None:
        raise UsageError(
            "--sequential cannot be used together with --hessians, a file of which has those of the full-precision "
            "model; leave one of them out"
        )
    return hessians is None if asked is None else asked


def show_needs(needs: Needs) -> None:
    """Says what a pass over the layers takes, before it starts."""
    disk = f"{size(needs.disk_bytes)} of disk space"
    if needs.hessian_bytes:
        disk += f", {size(needs.hessian_bytes)} for the Hessians"
    print(
        f"{needs.chunks} chunks of {needs.context} tokens: about {duration(needs.seconds)}, "
        f"{size(needs.memory_bytes)} of memory, {disk}",
        file=sys.stderr,
        flush=True,
    )


@contextmanager
def pass_progress(*, quiet: bool) -> Iterator[Callable[[LayerwiseProgress], None] | None]:
    """Shows where the pass is: a bar on a terminal, a line for each layer elsewhere."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        last = -2

        def line(at: LayerwiseProgress) -> None:
            nonlocal last
            if at.layer != last:
                last = at.layer
                print(f"{at.share:4.0%}  {_left(at)}  {_described(at)}", file=sys.stderr, flush=True)

        yield line
        return
    columns = (
        TextColumn("{task.percentage:>3.0f}%"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0, left="")
        yield lambda at: bar.update(task, completed=at.share, left=_left(at), description=_described(at))


def _left(at: LayerwiseProgress) -> str:
    return f"{duration(at.left)} left"


def _described(at: LayerwiseProgress) -> str:
    """Counts of tensors and layers, what is next, and what became of the tensor before it."""
    layer = f"  layer {at.layer + 1}/{at.n_layer}" if 0 <= at.layer < at.n_layer else ""
    text = f"{at.done}/{at.total} tensors{layer}  {printable(at.tensor)}"
    if at.before is None or at.after is None:
        return text
    gain = f" (x{at.after / at.before:.2f})" if at.before else ""
    return f"{text}  last loss {at.before:.3g} -> {at.after:.3g}{gain}"


def _show(report: LayerwiseReport) -> None:
    """A table of tensors: loss of plain and of weighted rounding, and of the solution relative to the latter."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("tensor", "format", "size", "rounded", "weighted", "solved", "gain", "damp", "seconds", "note"):
        table.add_column(name, justify="left" if name in ("tensor", "format", "note") else "right")
    for t in report.tensors:
        gain = f"x{t.solved / t.weighted:.2f}" if t.weighted else ""
        table.add_row(
            printable(t.name), t.format, size(t.nbytes), f"{t.rounded:.4g}", f"{t.weighted:.4g}", f"{t.solved:.4g}",
            gain, f"{t.damp:g}", f"{t.seconds:.1f}", printable(t.note),
        )  # fmt: skip
    out = render.console()
    out.print(table)
    if report.folds:
        out.print(_folds(report.folds))
    out.print(f"{report.tokens} calibration tokens, {report.seconds:.0f} s", highlight=False)


def _folds(folds: Sequence[FoldReport]) -> Table:
    """A table of AWQ's scales: where they are, what they are good for, and why there are none."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("scaled", "taken up by", "exponents", "before", "after", "note"):
        table.add_column(name, justify="right" if name in ("before", "after") else "left")
    for fold in folds:
        exponents = "" if fold.exponents is None else "{:g}, {:g}".format(*fold.exponents)
        losses = (f"{fold.before:.4g}", f"{fold.after:.4g}") if fold.maker else ("", "")
        readers = ", ".join(printable(name) for name in fold.readers)
        table.add_row(readers, printable(fold.maker), exponents, *losses, printable(fold.note))
    return table

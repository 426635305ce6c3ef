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
from ggquant.cli.text import printable, size
from ggquant.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table

    from ggquant.layerwise.convert import LayerwiseProgress, LayerwiseReport
    from ggquant.layerwise.options import Method
    from ggquant.layerwise.report import FoldReport
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


@contextmanager
def pass_progress(*, quiet: bool) -> Iterator[Callable[[LayerwiseProgress], None] | None]:
    """Shows where the pass is: rewriting one line on a terminal, a line for each layer elsewhere."""
    if quiet:
        yield None
        return
    live = sys.stderr.isatty()
    last = -2

    def show(at: LayerwiseProgress) -> None:
        nonlocal last
        if not live and at.layer == last:
            return
        last = at.layer
        left = f"  {at.seconds / at.done * (at.total - at.done):.0f} s left" if at.done else ""
        gain = "" if at.gain is None else f"  loss x{at.gain:.2f}"
        line = f"{at.done}/{at.total} tensors  {printable(at.tensor)}{gain}{left}"
        print(f"\r\x1b[K{line}" if live else line, end="" if live else "\n", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if live and last != -2:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


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

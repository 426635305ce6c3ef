"""Progress of a conversion: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ggquant.cli.text import printable, size

if TYPE_CHECKING:
    from ggquant.progress import Progress as Step

#: Seconds between plain lines: a log of an hour's work should stay readable.
_LINE_SECONDS = 2.0


class _RateColumn(ProgressColumn):
    """Encoded bytes written per second over the last seconds."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed / 1e9:.2f} GB/s")


@contextmanager
def progress_display(*, quiet: bool) -> Iterator[Callable[[Step], None] | None]:
    """Shows progress on standard error while the block runs; yields the callback to give to `convert`."""
    console = Console(stderr=True)
    if quiet:
        yield None
    elif console.is_terminal:
        yield from _bar(console)
    else:
        yield _Lines(console)


def _bar(console: Console) -> Iterator[Callable[[Step], None]]:
    bar = Progress(
        TextColumn("{task.percentage:>3.0f}%"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[amount]}"),
        _RateColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=None, amount="")

        def show(step: Step) -> None:
            bar.update(
                task,
                completed=step.bytes_done,
                total=step.bytes_total,
                amount=f"{size(step.bytes_done)} of {size(step.bytes_total)}",
                description=f"{step.format:<7} {printable(step.tensor)}",
            )

        yield show


class _Lines:
    """One line every few seconds, and one at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = time.monotonic()

    def __call__(self, step: Step) -> None:
        now = time.monotonic()
        done = step.bytes_done >= step.bytes_total
        if now < self._next and not done:
            return
        self._next = now + _LINE_SECONDS
        rate = step.bytes_done / step.seconds if step.seconds > 0 else 0.0
        left = (step.bytes_total - step.bytes_done) / rate if rate else 0.0
        share = 100 * step.bytes_done / step.bytes_total if step.bytes_total else 100.0
        self._console.print(
            f"[{step.tensors_done}/{step.tensors_total}] {share:3.0f}%  {rate / 1e9:.2f} GB/s  "
            f"{left:.0f} s left  {step.format} {printable(step.tensor)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

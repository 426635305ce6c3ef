"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

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
    from ggquant.calibration import CollectProgress
    from ggquant.progress import Progress as Step

#: Seconds between plain lines: a log of an hour's work should stay readable.
_LINE_SECONDS = 2.0

#: What is done, what there is in all, and what is being worked on.
_Show = Callable[[int, int, str], None]

#: An amount as text.
_Unit = Callable[[float], str]


@contextmanager
def conversion_progress(*, quiet: bool) -> Iterator[Callable[[Step], None] | None]:
    """Shows a conversion's progress on standard error; yields the callback for `convert`."""
    if quiet:
        yield None
        return
    with _display() as show:

        def step(at: Step) -> None:
            show(
                at.bytes_done,
                at.bytes_total,
                f"{at.tensors_done}/{at.tensors_total} {at.format:<7} {printable(at.tensor)}",
            )

        yield step


@contextmanager
def copying_progress(total: int, *, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """Shows how much of `total` bytes is copied; yields the callback for `split` and `merge`."""
    if quiet:
        yield None
        return
    with _display() as show:
        done = 0

        def more(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            show(done, total, "")

        yield more


@contextmanager
def layer_progress(*, quiet: bool) -> Iterator[Callable[[CollectProgress], None] | None]:
    """Shows how far calibration text has come through the layers; yields the callback for `collect_imatrix`."""
    if quiet:
        yield None
        return
    with _display(lambda amount: f"{amount:.0f} tokens") as show:

        def step(at: CollectProgress) -> None:
            # Tokens that would be through all layers by now, if they went one by one.
            what = f"layer {at.layer}/{at.n_layer}" if at.layer < at.n_layer else "output"
            show(round(at.tokens * at.done / max(at.total, 1)), at.tokens, what)

        yield step


@contextmanager
def work_progress(*, quiet: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """Shows how much of some work is done; yields a callback that takes work done, work in all, and what it is."""
    if quiet:
        yield None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(console, None)
        yield lambda done, total, what: lines(done, total, printable(what))
        return
    columns = ("{task.percentage:>3.0f}%", BarColumn(bar_width=24), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}", markup=False), console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=printable(what))


@contextmanager
def _display(unit: _Unit = size) -> Iterator[_Show]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console, unit)
        return
    bar = Progress(
        TextColumn("{task.percentage:>3.0f}%"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[amount]}"),
        _RateColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=None, amount="")

        def show(done: int, total: int, what: str) -> None:
            amount = f"{unit(done)} of {unit(total)}"
            bar.update(task, completed=done, total=total, amount=amount, description=what)

        yield show


class _RateColumn(ProgressColumn):
    """The amount per second, over the last seconds."""

    def __init__(self, unit: _Unit) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{self._unit(task.speed)}/s")


class _Lines:
    """One line every few seconds, and one at the end."""

    def __init__(self, console: Console, unit: _Unit | None) -> None:
        self._console = console
        self._unit = unit
        self._started = time.monotonic()
        self._next = self._started
        self._ended = False

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        ends = done >= total
        if self._ended or (now < self._next and not ends):
            return
        self._next = now + _LINE_SECONDS
        self._ended = ends
        elapsed = now - self._started
        rate = done / elapsed if elapsed > 0 else 0.0
        left = (total - done) / rate if rate else 0.0
        share = 100 * done / total if total else 100.0
        speed = f"{self._unit(rate)}/s  " if self._unit is not None else ""
        line = f"{share:3.0f}%  {speed}{left:.0f} s left  {what}".rstrip()
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

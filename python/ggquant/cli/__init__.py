"""The `ggquant` command. Importing this needs typer and rich; `import ggquant` does not import it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ggquant import __version__, isa
from ggquant.cli.compare import compare
from ggquant.cli.evaluate import evaluate
from ggquant.cli.export import export
from ggquant.cli.files import inspect, merge, split, verify
from ggquant.cli.imatrix import imatrix
from ggquant.cli.outcome import EXIT_CODES_HELP, INTERRUPTED, guarded
from ggquant.cli.quantize import quantize
from ggquant.cli.sensitivity import sensitivity
from ggquant.cli.tables import formats, variants
from ggquant.cli.transcode import transcode

app = typer.Typer(
    name="ggquant",
    help="Quantize language models on a CPU: GGUF files with the bytes of llama.cpp's own tools.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@guarded
def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ggquant {__version__} (instruction set: {isa()})")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print version and instruction set."),
    ] = False,
) -> None:
    del version  # handled by its callback


_COMMANDS = (
    quantize,
    imatrix,
    evaluate,
    compare,
    sensitivity,
    inspect,
    verify,
    split,
    merge,
    export,
    transcode,
    variants,
    formats,
)
for _command in _COMMANDS:
    app.command(epilog=EXIT_CODES_HELP)(guarded(_command))


def main() -> None:
    """Runs the command line and leaves the process with its exit code."""
    try:
        app(prog_name="ggquant")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)

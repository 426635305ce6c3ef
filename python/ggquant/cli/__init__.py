"""The `ggquant` command. Importing this needs typer and rich; `import ggquant` does not import it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Annotated

import typer

from ggquant import __version__, isa
from ggquant.cli.outcome import EXIT_CODES_HELP, INTERRUPTED, guarded

#: The commands, in the order of the help, and the module of each.
COMMANDS = {
    "quantize": "quantize",
    "imatrix": "imatrix",
    "evaluate": "evaluate",
    "compare": "compare",
    "sensitivity": "sensitivity",
    "inspect": "files",
    "verify": "files",
    "split": "files",
    "merge": "files",
    "export": "export",
    "transcode": "transcode",
    "variants": "tables",
    "formats": "tables",
}


@guarded
def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ggquant {__version__} (instruction set: {isa()})")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print version and instruction set."),
    ] = False,
) -> None:
    del version  # handled by its callback


def command_line(commands: Iterable[str]) -> typer.Typer:
    """A command line with some of the commands: to import and describe all of them takes a third of a second."""
    app = typer.Typer(
        name="ggquant",
        help="Quantize language models on a CPU: GGUF files with the bytes of llama.cpp's own tools.",
        epilog=EXIT_CODES_HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in commands:
        module = import_module(f"ggquant.cli.{COMMANDS[name]}")
        app.command(epilog=EXIT_CODES_HELP)(guarded(getattr(module, name)))
    return app


def main() -> None:
    """Runs the command line and leaves the process with its exit code."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    app = command_line([first] if first in COMMANDS else COMMANDS)
    try:
        app(prog_name="ggquant")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)

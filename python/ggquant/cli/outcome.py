"""How a command ends: exit codes, and errors as one line on standard error."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from ggquant import errors
from ggquant.cli.text import one_line

P = ParamSpec("P")
R = TypeVar("R")

#: The work was started and failed.
FAILED = 1
#: The command line cannot be right; nothing was started.
USAGE = 2
#: Ctrl-C, or SIGTERM.
INTERRUPTED = 130

EXIT_CODES_HELP = (
    "Exit codes: 0 done; 1 the work failed; 2 the command line is wrong; 130 interrupted. "
    "GGQUANT_DEBUG=1 shows tracebacks, GGQUANT_ISA=scalar|avx2|avx512|neon forces an instruction set."
)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Makes a command's exceptions into one line on standard error and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        _prepare_process()
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            kept = kwargs.get("resume", False) and not kwargs.get("dry_run", False)
            say_error(f"interrupted; {'--resume goes on from here' if kept else 'nothing was left behind'}")
            code = INTERRUPTED
        except errors.UsageError as error:
            code = _report(error, USAGE)
        except BrokenPipeError:
            code = _close_output()
        except (errors.Error, OSError) as error:
            code = _report(error, FAILED)
        except MemoryError:
            say_error("out of memory")
            code = FAILED
        except typer.Exit:
            raise
        except Exception as error:
            code = _report_defect(error)
        raise typer.Exit(code)

    return run


def say_error(message: str) -> None:
    """Writes a line to standard error."""
    print(f"ggquant: error: {one_line(message)}", file=sys.stderr)


def say_warning(message: str) -> None:
    """Writes a line to standard error that does not change the exit code."""
    print(f"ggquant: warning: {one_line(message)}", file=sys.stderr)


def _report(error: Exception, code: int) -> int:
    if os.environ.get("GGQUANT_DEBUG") == "1":
        raise error
    say_error(str(error))
    return code


def _report_defect(error: Exception) -> int:
    if os.environ.get("GGQUANT_DEBUG") == "1":
        raise error
    say_error(
        f"{type(error).__name__}: {error} (a defect in ggquant: please report it with what GGQUANT_DEBUG=1 shows)"
    )
    return FAILED


def _prepare_process() -> None:
    # A name from a file may hold bytes that are not UTF-8: show them escaped rather than die while printing.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    # SIGTERM then removes temporary files as Ctrl-C does. Only the main thread may say so.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _close_output() -> int:
    """The reader of our output has gone: let the interpreter's last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED

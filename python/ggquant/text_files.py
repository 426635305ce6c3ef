"""Small text files beside a model: whole or not at all, and never in the place of another by accident."""

from __future__ import annotations

import errno
from pathlib import Path

from ggquant.errors import FileError
from ggquant.whole_file import replaced


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raises FileError if `path` exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise FileError(
            f"{path}: it exists already; remove it or allow overwriting", file=str(path), errno=errno.EEXIST
        )


def write_text(path: Path, text: str, *, overwrite: bool) -> None:
    """Writes `text` to `path`, which has the old content or the new one whatever happens.

    Raises:
        FileError: it exists and `overwrite` is not set, or the system refused.
    """
    refuse_existing(path, overwrite=overwrite)
    with replaced(path) as file:
        file.write(text.encode("utf-8"))

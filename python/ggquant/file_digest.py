"""Digests of files, whatever their size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ggquant.errors import FileError

if TYPE_CHECKING:
    import os
    from hashlib import _Hash

#: Bytes read at once.
_PIECE = 1 << 22


def add_file(digest: _Hash, path: str | os.PathLike[str]) -> None:
    """Adds a file's content to a digest.

    Raises:
        FileError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}", file=str(path), errno=error.errno) from error

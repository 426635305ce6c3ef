"""Memory for hidden states: an array, or a file mapped into memory where there are too many."""

from __future__ import annotations

import os
import tempfile
from math import prod
from pathlib import Path

import numpy as np

from ggquant.errors import FileError
from ggquant.runtime.ops import Floats


def allocate(shape: tuple[int, ...], limit: int | None, folder: Path | None = None) -> Floats:
    """Room for hidden states, float32, not initialized.

    Args:
        shape: of the array.
        limit: most bytes to take from memory; above it the array lies in a nameless temporary file, which vanishes with
            the array or the process. None for no limit.
        folder: where that file goes, by default the system's folder for temporary files.

    Raises:
        FileError: the disk has no room for the file.
    """
    nbytes = 4 * prod(shape)
    if limit is None or nbytes <= limit or nbytes == 0:
        return np.empty(shape, np.float32)
    where = Path(folder) if folder is not None else Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryFile(dir=where) as file:
            reserve(file.fileno(), nbytes)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise FileError(
            f"{where}: no room for {nbytes} bytes of hidden states: {error.strerror}",
            file=str(where),
            errno=error.errno,
        ) from error


def reserve(descriptor: int, nbytes: int) -> None:
    """Claims disk space for a file that will be mapped: running out of it later would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, nbytes)
    else:
        os.ftruncate(descriptor, nbytes)

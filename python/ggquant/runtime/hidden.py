"""Memory for hidden states: an array, or a file mapped into memory where there are too many."""

from __future__ import annotations

import os
import tempfile
import zlib
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


class KeptStates:
    """Hidden states that outlive the process: two files take turns, so that those of the last whole layer are there
    whatever happens.

    Attributes:
        layers: number of finished layers.
        checksum: of the states after them.
    """

    def __init__(self, folder: Path, layers: int = 0, checksum: int = 0, *, prefix: str = "hidden") -> None:
        """Opens nothing yet.

        Args:
            folder: where the files are.
            layers, checksum: as an earlier run left them.
            prefix: what the files' names begin with.
        """
        self._folder, self._prefix = folder, prefix
        self.layers, self.checksum = layers, checksum
        self._files: list[Floats] = []

    def open(self, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
        """The states after the finished layers, and room for the next ones.

        Where there are none, or they are not what was stored, `layers` becomes 0.

        Raises:
            FileError: the disk has no room for the files.
        """
        self._files = [self._map(number, shape) for number in (0, 1)]
        if self.layers and zlib.crc32(self._files[self.layers % 2].data) != self.checksum:
            self.layers = 0
        return self._files[self.layers % 2], self._files[(self.layers + 1) % 2]

    def advance(self) -> tuple[Floats, Floats]:
        """Counts a layer, whose states are in the room by now; returns them, and the next room."""
        self.layers += 1
        states, room = self._files[self.layers % 2], self._files[(self.layers + 1) % 2]
        if isinstance(states, np.memmap):
            states.flush()
        self.checksum = zlib.crc32(states.data)
        return states, room

    def restart(self) -> None:
        """Forgets all layers."""
        self.layers, self.checksum = 0, 0

    def _map(self, number: int, shape: tuple[int, ...]) -> Floats:
        path = self._folder / f"{self._prefix}-{number}"
        nbytes = 4 * prod(shape)
        try:
            with path.open("r+b" if path.exists() else "w+b") as file:
                if path.stat().st_size != nbytes:
                    file.truncate(0)
                    reserve(file.fileno(), nbytes)
                return np.memmap(file, np.float32, "r+", shape=shape)
        except OSError as error:
            raise FileError(
                f"{path}: no room for {nbytes} bytes of hidden states: {error.strerror}",
                file=str(path),
                errno=error.errno,
            ) from error

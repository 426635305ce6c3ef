"""What an evaluation leaves behind when it is interrupted, so that another run goes on from there."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggquant.errors import FileError
from ggquant.runtime.hidden import KeptStates
from ggquant.whole_file import replaced

#: Models whose states are kept: the one that is judged, and its reference.
_MODELS = ("own", "base")


class EvaluationState:
    """A hidden folder: hidden states of the models after their last whole layer, and the scores of finished chunks.

    Attributes:
        folder: where it is.
        kept: hidden states of the model ("own") and of the reference ("base").
    """

    def __init__(self, parent: Path, facts: Any) -> None:
        """Opens what an earlier run with the same facts left, or begins anew.

        Args:
            parent: the folder to lie in.
            facts: everything that the results depend on, as JSON can hold it.

        Raises:
            FileError: nothing can be written there.
        """
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = parent / f".ggquant-evaluate.{digest}"
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.folder}: {error.strerror}", file=str(self.folder), errno=error.errno) from error
        positions = self._positions()
        self.kept = {name: KeptStates(self.folder, *positions[name], prefix=name) for name in _MODELS}
        self._scores = self.folder / "scores"

    def save(self) -> None:
        """Records how far the layers have come."""
        position = {name: [kept.layers, kept.checksum] for name, kept in self.kept.items()}
        with replaced(self.folder / "position.json") as file:
            file.write(json.dumps(position).encode())

    def scores(self, shape: tuple[int, ...]) -> list[npt.NDArray[np.float64]]:
        """Scores of finished chunks, each of `shape`, in order."""
        try:
            data = self._scores.read_bytes()
        except OSError:
            return []
        size = 8 * int(np.prod(shape))
        found = []
        for at in range(0, len(data) - size - 3, size + 4):
            record = data[at : at + size]
            if zlib.crc32(record) != int.from_bytes(data[at + size : at + size + 4], "little"):
                break
            found.append(np.frombuffer(record, "<f8").reshape(shape))
        # What follows a damaged record cannot be placed.
        with self._scores.open("r+b") as file:
            file.truncate(len(found) * (size + 4))
        return found

    def add_scores(self, scores: npt.NDArray[np.float64]) -> None:
        """Records the next chunk's scores."""
        record = np.ascontiguousarray(scores, "<f8").tobytes()
        try:
            with self._scores.open("ab") as file:
                file.write(record + zlib.crc32(record).to_bytes(4, "little"))
        except OSError as error:
            raise FileError(f"{self._scores}: {error.strerror}", file=str(self._scores), errno=error.errno) from error

    def remove(self) -> None:
        """Takes everything away."""
        self.kept = {}
        shutil.rmtree(self.folder, ignore_errors=True)

    def _positions(self) -> dict[str, tuple[int, int]]:
        try:
            stored = json.loads((self.folder / "position.json").read_text("utf-8"))
            return {name: (int(stored[name][0]), int(stored[name][1])) for name in _MODELS}
        except (OSError, ValueError, LookupError, TypeError):
            return dict.fromkeys(_MODELS, (0, 0))

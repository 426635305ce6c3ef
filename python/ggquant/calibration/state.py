"""What a calibration leaves behind when it is interrupted, so that another run can go on after the last whole layer."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggquant.calibration.statistics import Entry, Statistics
from ggquant.errors import Error, FileError
from ggquant.gguf import GGUFWriter
from ggquant.gguf import open as open_gguf
from ggquant.runtime.hidden import KeptStates
from ggquant.runtime.ops import Floats
from ggquant.whole_file import replaced


class RunState:
    """A hidden folder beside the output: hidden states of the current pass, and the statistics of every finished layer.

    Attributes:
        folder: where it is.
        passes: number of finished passes over the model.
    """

    def __init__(self, output: Path, facts: Any) -> None:
        """Opens what an earlier run with the same facts left, or begins anew.

        Args:
            output: the file that will be written.
            facts: everything that the results depend on, as JSON can hold it.
        """
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = output.with_name(f".{output.name}.{digest}.calibration")
        for other in output.parent.glob(f".{output.name}.*.calibration"):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.folder}: {error.strerror}", file=str(self.folder), errno=error.errno) from error
        self.passes = layers = checksum = 0
        try:
            stored = json.loads((self.folder / "position.json").read_text("utf-8"))
            self.passes, layers, checksum = (int(stored[k]) for k in ("passes", "layers", "checksum"))
        except (OSError, ValueError, KeyError, TypeError):
            self.passes = layers = checksum = 0
        self._kept = KeptStates(self.folder, layers, checksum)

    @property
    def layers(self) -> int:
        """Number of finished layers in the pass after the finished ones."""
        return self._kept.layers

    def hidden(self, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
        """The hidden states after the finished layers, and room for the next ones.

        Where there are none, or they are not what was stored, the pass begins anew: `layers` is then 0.
        """
        return self._kept.open(shape)

    def finish_layer(self, statistics: Statistics) -> tuple[Floats, Floats]:
        """Records that a layer is done, with the statistics that it gave.

        Returns:
            Its hidden states, which are in the room, and the next room.
        """
        self._store(f"layer-{self.passes}-{self.layers}", statistics, None)
        states = self._kept.advance()
        self._write_position()
        return states

    def finish_pass(self, statistics: Statistics, losses: npt.NDArray[np.float64]) -> None:
        """Records that all layers of a pass are done, with what came after them."""
        self._store(f"pass-{self.passes}", statistics, losses)
        self.passes += 1
        self._kept.restart()
        self._write_position()

    def layer(self, pass_number: int, layer: int) -> Statistics:
        """What a finished layer gave."""
        return self._load(f"layer-{pass_number}-{layer}")[0]

    def after(self, pass_number: int) -> tuple[Statistics, npt.NDArray[np.float64]]:
        """What came after the last layer of a finished pass."""
        return self._load(f"pass-{pass_number}")

    def remove(self) -> None:
        """Takes everything away."""
        self._kept = KeptStates(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_position(self) -> None:
        position = {"passes": self.passes, "layers": self.layers, "checksum": self._kept.checksum}
        with replaced(self.folder / "position.json") as file:
            file.write(json.dumps(position).encode())

    def _store(self, name: str, statistics: Statistics, losses: npt.NDArray[np.float64] | None) -> None:
        with GGUFWriter(self.folder / f"{name}.gguf", overwrite=True) as writer:
            for tensor, entry in statistics.entries.items():
                writer.add(f"{tensor}:sums", entry.sums)
                writer.add(f"{tensor}:counts", entry.counts)
            if losses is not None and losses.size:
                writer.add("losses", losses)

    def _load(self, name: str) -> tuple[Statistics, npt.NDArray[np.float64]]:
        path = self.folder / f"{name}.gguf"
        found = Statistics()
        losses = np.zeros((0, 0))
        try:
            stored = open_gguf(path).tensors
            for key, tensor in stored.items():
                of, _, kind = key.rpartition(":")
                if kind == "sums":
                    found.entries[of] = Entry(tensor.dequantize(), stored[f"{of}:counts"].dequantize())
                elif key == "losses":
                    losses = tensor.dequantize()
        except (Error, KeyError) as error:
            raise FileError(
                f"{path}: what an interrupted run left is damaged ({error}); delete {self.folder} and start again",
                file=str(path),
            ) from error
        return found, losses

"""Solved tensors on disk until the output is written, and for a later run to go on from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ggquant.errors import FileError
from ggquant.layerwise.report import SolvedTensor, TensorReport
from ggquant.model import View
from ggquant.sources import contiguous_strides
from ggquant.tensor import QuantizedTensor


class WorkFile:
    """Blocks of solved tensors one after another in one file, and beside it a line of JSON for each.

    The names contain a fingerprint of all that the solution depends on, so that only a run with the same model, text
    and options finds them. What a line says is believed only if the blocks have the digest in it.

    Args:
        target: the output; the files are hidden beside it.
        fingerprint: hexadecimal.
        resume: take up what is there; otherwise it is removed.
    """

    def __init__(self, target: Path, fingerprint: str, *, resume: bool) -> None:
        stem = f".{target.name}.{fingerprint[:16]}"
        self.blocks = target.with_name(f"{stem}.solved")
        self.index = target.with_name(f"{stem}.solved.jsonl")
        self.views: dict[str, View] = {}
        self.done: dict[str, SolvedTensor] = {}
        try:
            if resume and self.blocks.exists() and self.index.exists():
                self._take_up()
            else:
                self.blocks.write_bytes(b"")
                self.index.write_text("")
        except OSError as error:
            raise _unwritable(self.blocks, error) from error

    def add(self, solved: SolvedTensor) -> None:
        """Stores a tensor.

        Raises:
            FileError: it cannot be written.
        """
        data = np.ascontiguousarray(solved.tensor.data).tobytes()
        try:
            with self.blocks.open("ab") as file:
                offset = file.tell()
                file.write(data)
            importance = None if solved.importance is None else solved.importance.tolist()
            line = {
                "offset": offset,
                "sha256": hashlib.sha256(data).hexdigest(),
                "format": solved.tensor.format,
                "shape": list(solved.tensor.shape),
                "importance": importance,
                "report": asdict(solved.report),
            }
            with self.index.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")
        except OSError as error:
            raise _unwritable(self.blocks, error) from error
        self._place(solved, offset)

    def remove(self) -> None:
        """Deletes both files."""
        for path in (self.blocks, self.index):
            path.unlink(missing_ok=True)

    def _place(self, solved: SolvedTensor, offset: int) -> None:
        tensor = solved.tensor
        strides = contiguous_strides(tensor.shape)
        self.views[solved.name] = View(str(self.blocks), offset, tensor.format, tensor.shape, strides)
        self.done[solved.name] = solved

    def _take_up(self) -> None:
        blocks = np.memmap(self.blocks, np.uint8, "r") if self.blocks.stat().st_size else np.empty(0, np.uint8)
        kept, end = [], 0
        for text in self.index.read_text("utf-8").splitlines():
            solved = _read(text, blocks)
            if solved is None:
                break
            line = json.loads(text)
            self._place(solved, line["offset"])
            kept.append(text)
            end = line["offset"] + solved.tensor.nbytes
        del blocks
        self.index.write_text("".join(f"{text}\n" for text in kept), "utf-8")
        with self.blocks.open("r+b") as file:
            file.truncate(end)


def _read(text: str, blocks: np.ndarray[Any, np.dtype[np.uint8]]) -> SolvedTensor | None:
    """What a line of the index describes; None if the blocks are not what it says."""
    try:
        line = json.loads(text)
        report = TensorReport(**line["report"])
        data = np.array(blocks[line["offset"] : line["offset"] + report.nbytes])
        if hashlib.sha256(data.tobytes()).hexdigest() != line["sha256"]:
            return None
        tensor = QuantizedTensor(data, line["format"], tuple(line["shape"]))
        importance = None if line["importance"] is None else np.array(line["importance"], np.float32)
        return SolvedTensor(report.name, tensor, importance, report)
    except (ValueError, KeyError, TypeError):
        return None


def _unwritable(path: Path, error: OSError) -> FileError:
    return FileError(f"{path}: {error.strerror}", file=str(path), errno=error.errno)

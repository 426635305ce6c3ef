"""Files of Hessians: what the inputs of a model's weights have for second moments, collected once for many runs.

A file is in safetensors: for each distinct input a tensor of float32, the upper triangle of the mean of `x^T x` row by
row, `[K (K + 1) / 2]`, with a first axis for the experts of a stack. It has the name of the first weight that reads the
input. The metadata hold what the Hessians are of (see `Origin`), and for each input the weights that share it, the
numbers of tokens, and a digest.

The Hessians are those of the model as it was: every layer sees what the original layers before it put out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ggquant.calibration import CalibrationText
from ggquant.errors import FileError, UsageError
from ggquant.file_digest import add_file
from ggquant.layerwise.inputs import Input, Stage, likely_stages, seen_through, stages
from ggquant.layerwise.moments import Moments
from ggquant.runtime import Block
from ggquant.runtime.block import GROUP_TOKENS
from ggquant.runtime.memory import free_disk_bytes
from ggquant.runtime.model import RunnableModel

Floats = npt.NDArray[np.float32]

#: Version of the layout.
_VERSION = "1"

#: Headers longer than this are not read.
_LONGEST_HEADER = 100_000_000

_Entry = dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """What Hessians depend on: digests of contents, and numbers.

    Attributes:
        model: of the weights and all else in the model's files.
        tokenizer: of the tokenizer's metadata.
        text: of the calibration text.
        context: tokens in a chunk.
        chunks: number of chunks.
        tokens: of the ids, which follow from all of these and from the choice of chunks.
    """

    model: str
    tokenizer: str
    text: str
    context: int
    chunks: int
    tokens: str

    @classmethod
    def of(cls, model: RunnableModel, text: CalibrationText, tokens: npt.NDArray[np.int64]) -> Origin:
        """That of a run.

        Raises:
            FileError: a file of the model cannot be read.
        """
        tokenizer = {key: repr(value) for key, value in model.metadata.items() if key.startswith("tokenizer.")}
        return cls(
            model=digest_of_model(model),
            tokenizer=_digest(json.dumps(tokenizer, sort_keys=True).encode()),
            text=_digest(text.text.encode("utf-8", "surrogatepass")),
            context=int(tokens.shape[1]),
            chunks=len(tokens),
            tokens=_digest(np.ascontiguousarray(tokens, "<i8").tobytes()),
        )

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """What is not as in `other`, in words."""
        found = []
        for name, words in (("model", "the model"), ("tokenizer", "the tokenizer"), ("text", "the calibration text")):
            if other.get(name) != getattr(self, name):
                found.append(f"{words} is another one")
        for name, words in (("context", "tokens in a chunk"), ("chunks", "chunks")):
            if other.get(name) != getattr(self, name):
                found.append(f"{words}: {other.get(name)} there, {getattr(self, name)} here")
        if not found and other.get("tokens") != self.tokens:
            found.append("the choice of chunks (--seed) is another one")
        return found


class HessianFile:
    """A whole file, opened to read.

    Args:
        path: the file.
        origin: what the Hessians must be of.

    Raises:
        FileError: it cannot be read, is damaged, or has the Hessians of something else.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        self.path = path
        header, self._start = _header(path)
        self._entries: dict[str, _Entry] = {}
        try:
            about = header.pop("__metadata__")
            if about["ggquant.hessians"] != _VERSION:
                raise _damaged(path, f"its layout has version {about['ggquant.hessians']}, not {_VERSION}")
            differences = origin.differences(json.loads(about["origin"]))
            inputs = json.loads(about["inputs"])
            for name, entry in inputs.items():
                first, last = header[name]["data_offsets"]
                shape = _shape(entry)
                if header[name] != {"dtype": "F32", "shape": shape, "data_offsets": [first, last]}:
                    raise _damaged(path, f"'{name}' is not what its metadata say")
                if last - first != 4 * int(np.prod(shape)) or last > path.stat().st_size - self._start:
                    raise _damaged(path, f"it ends before '{name}' does")
                self._entries[name] = {**entry, "offset": first}
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(path, "it has no Hessians as ggquant writes them") from error
        if differences:
            raise FileError(
                f"{path}: these are other Hessians: {'; '.join(differences)}. Name another file, or remove this one "
                "to collect them again",
                file=str(path),
            )
        self._by_weight = {weight: name for name, entry in self._entries.items() for weight in entry["names"]}

    def stages(self, layer: int) -> list[Stage]:
        """The stages of a layer, as `inputs.stages` finds them."""
        own = [entry for name, entry in self._entries.items() if name.startswith(f"blk.{layer}.")]
        return [Stage(tuple(entry["names"]), bool(entry["experts"])) for entry in own]

    def moments(self, weight: str, threads: int | None = None) -> list[Moments]:
        """The moments of a weight's input, or of each expert's.

        Raises:
            FileError: they are not there, or damaged.
        """
        name = self._by_weight.get(weight)
        if name is None:
            raise FileError(f"{self.path}: there is no Hessian for '{weight}'", file=str(self.path), tensor=weight)
        entry = self._entries[name]
        columns, found = entry["columns"], []
        digest = hashlib.sha256()
        each = columns * (columns + 1) // 2
        for tokens, data in zip(entry["tokens"], self._pieces(entry, 4 * each), strict=True):
            digest.update(data)
            if len(data) != 4 * each:
                raise _damaged(self.path, f"it ends before '{name}' does")
            found.append(_unpacked(np.frombuffer(data, "<f4"), columns, tokens, threads))
        if digest.hexdigest() != entry["sha256"]:
            raise _damaged(self.path, f"the Hessian of '{name}' is not the one that was written")
        return found

    def _pieces(self, entry: _Entry, nbytes: int) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                file.seek(self._start + entry["offset"])
                for _ in entry["tokens"]:
                    yield file.read(nbytes)
        except OSError as error:
            raise FileError(f"{self.path}: {error.strerror}", file=str(self.path), errno=error.errno) from error


def disk_need(model: RunnableModel) -> int:
    """Bytes of a file of Hessians, at most: weights that turn out to share an input in other ways share its Hessian."""
    total = 0
    layers = [model.block_tensors(layer) for layer in range(model.n_layer)]
    for tensors in [*layers, [model.tensor(model.output_name)]]:
        for names in likely_stages(tensors):
            shape = model.tensor(names[0]).shape
            total += 2 * (shape[0] if len(shape) == 3 else 1) * shape[-1] * (shape[-1] + 1)
    return total + _room(model)


def collect_hessians(
    model: RunnableModel,
    tokens: npt.NDArray[np.int64],
    path: Path,
    origin: Origin,
    *,
    resume: bool = False,
    progress: Callable[[int, str], object] | None = None,
) -> HessianFile:
    """Runs the model as it was over the calibration text, and writes the Hessians of all its weights' inputs.

    Args:
        model: the model, in float32 arithmetic.
        tokens: calibration tokens [n_chunks, n_ctx].
        path: the file; it has this name once it is whole.
        origin: what the Hessians are of.
        resume: keep finished layers when the run fails or is interrupted, and go on from those that an earlier one
            left. Their states are computed again, their Hessians are not.
        progress: told the layer and its first weight; before the first, layer -1 and how much disk space it takes.

    Raises:
        UsageError: the disk has less room than the file needs.
        FileError: the file cannot be written.
        NonFiniteError: activations overflow.
    """
    need, free = disk_need(model), free_disk_bytes(path.parent)
    part = _Part(path, origin, _room(model), resume=resume)
    if need - part.size > free:
        part.remove()
        raise UsageError(
            f"{path}: the Hessians take up to {need / 1e9:.2f} GB of disk space, and {free / 1e9:.2f} GB are free",
            file=str(path),
        )
    tell = progress or (lambda _layer, _name: None)
    tell(-1, f"Hessians: up to {need / 1e9:.2f} GB of disk space, {free / 1e9:.2f} GB free")
    step = max(1, GROUP_TOKENS // tokens.shape[1])
    try:
        states = model.embed(tokens)
        for layer in range(model.n_layer):
            block = model.block(layer)
            found = stages(block, states[:1, : min(64, tokens.shape[1])])
            tell(layer, found[0].names[0] if found else "")
            done = part.has(stage.names[0] for stage in found)
            sums = {} if done else {stage.names[0]: _empty(model, stage) for stage in found}
            _collect(model, block, states, sums, step)
            for stage in found:
                if not done:
                    first = stage.names[0]
                    part.add(stage, _checked(sums.pop(first), first, model.path))
        name = model.output_name
        if model.causal and not part.has([name]):
            tell(model.n_layer, name)
            moments = Moments(model.hidden_size, cross=False, threads=model.threads)
            for start in range(0, len(tokens), step):
                moments.add(model.normalized(states[start : start + step]).reshape(-1, model.hidden_size))
            part.add(Stage((name,), experts=False), _checked([moments], name, model.path))
        part.finish()
    except BaseException:
        if not resume:
            part.remove()
        raise
    return HessianFile(path, origin)


def _collect(model: RunnableModel, block: Block, states: Floats, sums: Mapping[str, list[Moments]], step: int) -> None:
    """Takes all chunks through a layer, and adds the inputs of its weights to their moments."""

    def run(start: int) -> list[Input]:
        part = states[start : start + step]
        return seen_through(block, part, sums, out=part)

    def add(seen: list[Input]) -> None:
        for one in seen:
            sums[one.name][max(one.expert, 0)].add(one.x)

    model.side_by_side(run, range(0, len(states), step), add)


def _checked(moments: list[Moments], name: str, file: str) -> list[Moments]:
    for own in moments:
        own.check(name, file)
    return moments


def digest_of_model(model: RunnableModel) -> str:
    """A digest of a model: the contents of all files that it is read from, and its configuration.

    Raises:
        FileError: a file cannot be read.
    """
    source, digest = model.source, hashlib.sha256()
    views = [view for tensor in source.tensors for view in tensor.views]
    packed = [part for view in views if (own := view.packed) for part in (own.codes, own.scales, own.zeros, own.listed)]
    files = {*source.inputs, *(view.file for view in (*views, *packed) if view is not None and view.file)}
    for path in sorted(files):
        add_file(digest, path)
    facts = {**source.metadata, **source.beyond_gguf}
    # General facts have the folder's name in them.
    told = sorted((key, repr(value)) for key, value in facts.items() if not key.startswith(("tokenizer.", "general.")))
    digest.update(repr(told).encode())
    for tensor in source.tensors:
        digest.update(repr((tensor.name, tensor.shape, tensor.dtype, tensor.ops)).encode() + (tensor.inline or b""))
    return digest.hexdigest()


class _Part:
    """The unfinished file, and beside it a line of JSON for each input that is in it. What a line says is believed only
    if the bytes have the digest in it."""

    def __init__(self, path: Path, origin: Origin, room: int, *, resume: bool) -> None:
        self._path, self._origin, self._room = path, origin, room
        stem = f".{path.name}.{_digest(json.dumps(asdict(origin)).encode())[:16]}"
        self._data, self._index = path.with_name(f"{stem}.part"), path.with_name(f"{stem}.part.jsonl")
        self._entries: dict[str, _Entry] = {}
        try:
            if resume and self._data.exists() and self._index.exists():
                self._take_up()
            else:
                self._index.write_text("", "utf-8")
                with self._data.open("wb") as file:
                    file.truncate(room)
        except OSError as error:
            raise self._unwritable(error) from error

    @property
    def size(self) -> int:
        """Bytes that are on disk already."""
        return sum(entry["nbytes"] for entry in self._entries.values())

    def has(self, names: Any) -> bool:
        """Whether all of some inputs are there."""
        return all(name in self._entries for name in names)

    def add(self, stage: Stage, moments: list[Moments]) -> None:
        name = stage.names[0]
        if name in self._entries:
            return
        digest, nbytes, tokens = hashlib.sha256(), 0, []
        offset = self._room + self.size
        try:
            with self._data.open("r+b") as file:
                file.seek(offset)
                for own in moments:
                    data = _packed(own)
                    digest.update(data)
                    file.write(data)
                    nbytes += len(data)
                    tokens.append(own.tokens)
                _sync(file)
            columns = moments[0].hessian.shape[0]
            entry = {
                "names": list(stage.names),
                "experts": stage.experts,
                "columns": columns,
                "tokens": tokens,
                "sha256": digest.hexdigest(),
                "nbytes": nbytes,
            }
            with self._index.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"name": name, **entry}) + "\n")
        except OSError as error:
            raise self._unwritable(error) from error
        self._entries[name] = entry

    def finish(self) -> None:
        """Writes the header, and gives the file its name."""
        tensors, offset, inputs = {}, 0, {}
        for name, entry in self._entries.items():
            last = offset + entry["nbytes"]
            tensors[name] = {"dtype": "F32", "shape": _shape(entry), "data_offsets": [offset, last]}
            inputs[name] = {key: value for key, value in entry.items() if key != "nbytes"}
            offset = last
        about = {
            "ggquant.hessians": _VERSION, "origin": json.dumps(asdict(self._origin)), "inputs": json.dumps(inputs)
        }  # fmt: skip
        text = json.dumps({"__metadata__": about, **tensors}).encode()
        if len(text) > self._room - 8:
            raise FileError(f"{self._path}: its header is longer than the room for it", file=str(self._path))
        try:
            with self._data.open("r+b") as file:
                file.write((self._room - 8).to_bytes(8, "little") + text.ljust(self._room - 8))
                file.truncate(self._room + offset)
                _sync(file)
            self._data.replace(self._path)
            self._index.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def remove(self) -> None:
        """Deletes both files."""
        for path in (self._data, self._index):
            path.unlink(missing_ok=True)

    def _take_up(self) -> None:
        kept, offset = [], self._room
        with self._data.open("r+b") as file:
            for text in self._index.read_text("utf-8").splitlines():
                try:
                    entry = json.loads(text)
                    name = entry.pop("name")
                    file.seek(offset)
                    if _digest_of(file, entry["nbytes"]) != entry["sha256"]:
                        break
                except (ValueError, KeyError, TypeError, AttributeError):
                    break
                self._entries[name] = entry
                kept.append(text)
                offset += entry["nbytes"]
            file.truncate(offset)
        self._index.write_text("".join(f"{text}\n" for text in kept), "utf-8")

    def _unwritable(self, error: OSError) -> FileError:
        return FileError(f"{self._path}: {error.strerror}", file=str(self._path), errno=error.errno)


def _empty(model: RunnableModel, stage: Stage) -> list[Moments]:
    shape = model.tensor(stage.names[0]).shape
    count = shape[0] if stage.experts else 1
    return [Moments(shape[-1], cross=False, threads=model.threads) for _ in range(count)]


def _room(model: RunnableModel) -> int:
    """Bytes of the header, at most, and of its length: a few hundred for each input, a dozen for each expert."""
    matrices = [tensor for tensor in model.source.tensors if len(tensor.shape) >= 2]
    experts = sum(tensor.shape[0] for tensor in matrices if len(tensor.shape) == 3)
    names = sum(len(tensor.name) for tensor in matrices)
    return (4096 + 640 * len(matrices) + 4 * names + 24 * experts + 7) // 8 * 8


def _shape(entry: _Entry) -> list[int]:
    each = entry["columns"] * (entry["columns"] + 1) // 2
    return [len(entry["tokens"]), each] if entry["experts"] else [each]


def _packed(moments: Moments) -> bytes:
    mean = moments.mean()
    return np.concatenate([row[i:] for i, row in enumerate(mean)]).astype("<f4").tobytes()


def _unpacked(packed: Floats, columns: int, tokens: int, threads: int | None) -> Moments:
    moments = Moments(columns, cross=False, threads=threads)
    square, first = np.empty((columns, columns)), 0
    for i in range(columns):
        last = first + columns - i
        square[i, i:] = square[i:, i] = packed[first:last]
        first = last
    moments.tokens = tokens
    # Exact: 24 bits times a number of tokens, and the solver divides by it again.
    moments.hessian = square * tokens
    return moments


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its data start."""
    try:
        with path.open("rb") as file:
            start, size = file.read(8), path.stat().st_size
            length = int.from_bytes(start, "little")
            text = file.read(length) if 2 <= length <= min(_LONGEST_HEADER, size - 8) else b""
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}", file=str(path), errno=error.errno) from error
    try:
        header = json.loads(text)
    except ValueError as error:
        raise _damaged(path, "its header is cut short or not JSON, or it is no safetensors file") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not an object")
    return header, 8 + length


def _damaged(path: Path, what: str) -> FileError:
    return FileError(f"{path}: {what}; remove it to collect the Hessians again", file=str(path))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_of(file: BinaryIO, nbytes: int) -> str:
    digest = hashlib.sha256()
    while nbytes > 0 and (data := file.read(min(nbytes, 1 << 22))):
        digest.update(data)
        nbytes -= len(data)
    return digest.hexdigest()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())

"""What can be converted: a Hugging Face folder, a single safetensors file beside its config, or a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ggquant.errors import FileError, UnsupportedError, UsageError
from ggquant.gguf import GGUFFile
from ggquant.metadata import Metadata
from ggquant.model import Model, SourceTensor, View

if TYPE_CHECKING:
    import os


def load_model(source: str | os.PathLike[str], *, pre: str | None = None) -> Model:
    """Reads the headers of a model.

    Args:
        source: folder of a Hugging Face checkpoint, a `.safetensors` file in one, or a GGUF file (any shard of it).
        pre: name of the pre-tokenizer, instead of the one found from the tokenizer. Only for checkpoints.

    Raises:
        FileError: there is nothing at `source`, or it cannot be read.
        CheckpointError, MalformedFileError, UnsupportedError: what is there cannot be converted, and why.
    """
    path = Path(source)
    if path.is_dir() or path.suffix == ".safetensors":
        from ggquant.source_hf import open_checkpoint

        return open_checkpoint(path, pre)
    if not path.exists():
        raise FileError(f"{path}: no such file or folder", file=str(path))
    if path.suffix in (".bin", ".pt", ".pth"):
        raise UnsupportedError(
            f"{path}: PyTorch pickles are not read, since opening one runs the code in it; "
            "save the checkpoint as safetensors",
            file=str(path),
        )
    if pre is not None:
        raise UsageError(
            f"{path}: a pre-tokenizer cannot be chosen for a GGUF file, whose tokenizer is converted already"
        )
    return _from_gguf(GGUFFile(path))


def _from_gguf(file: GGUFFile) -> Model:
    if file.byte_order != "little":
        raise UnsupportedError(
            f"{file.shards[0]}: a big-endian file can be read and inspected, but not converted; "
            "convert it to little-endian first",
            file=str(file.shards[0]),
        )
    metadata = Metadata(file.metadata)
    for key in ("split.no", "split.count", "split.tensors.count"):
        metadata.pop(key, None)
    tensors = [
        SourceTensor(
            name=tensor.name,
            shape=tensor.shape,
            dtype=tensor.format,
            views=(
                View(
                    file=str(file.shards[tensor.shard]),
                    offset=tensor.offset,
                    dtype=tensor.format,
                    shape=tensor.shape,
                    strides=contiguous_strides(tensor.shape),
                ),
            ),
        )
        for tensor in file.tensors.values()
    ]
    arch = metadata.get("general.architecture")
    return Model(
        arch=arch if isinstance(arch, str) else "",
        metadata={key: metadata.typed(key) for key in metadata},
        tensors=tensors,
        inputs=[str(shard) for shard in file.shards],
    )


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a C-contiguous array."""
    strides: list[int] = []
    step = 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))

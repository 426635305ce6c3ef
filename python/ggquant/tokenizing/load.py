"""Finds a model's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggquant.architectures.config import Config
from ggquant.bounded_json import read_object
from ggquant.errors import CheckpointError, FileError
from ggquant.gguf import GGUFFile
from ggquant.tokenizing.tokenizer import Tokenizer

if TYPE_CHECKING:
    import os


def load_tokenizer(path: str | os.PathLike[str], *, pre: str | None = None) -> Tokenizer:
    """The tokenizer of a model.

    Args:
        path: folder of a Hugging Face checkpoint, a `.safetensors` file in one, or a GGUF file (any shard).
        pre: name of the pre-tokenizer, instead of the one found from the tokenizer. Only for checkpoints.

    A checkpoint's tokenizer files are converted first, so that its ids are those of the GGUF file made from it.

    Raises:
        FileError: there is nothing at `path`, or it cannot be read.
        CheckpointError, MalformedFileError, UnsupportedError: there is no tokenizer that can be used, and why.
    """
    found = Path(path)
    if not found.exists():
        raise FileError(f"{found}: no such file or folder", file=str(found))
    if found.is_dir() or found.suffix == ".safetensors":
        return Tokenizer(_converted(found if found.is_dir() else found.parent, pre), str(found))
    return Tokenizer(GGUFFile(found).metadata, str(found))


def _converted(folder: Path, pre: str | None) -> dict[str, Any]:
    from ggquant.architectures.registry import family_of
    from ggquant.source_hf import architecture_of
    from ggquant.tokenizers.build import vocabulary

    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no config.json; a checkpoint needs one beside its weights", file=str(folder))
    values = read_object(path)
    architecture = architecture_of(values, path)
    nested = values.get("text_config")
    if isinstance(nested, dict):
        values = {**values, **nested}
    family = family_of(architecture, str(path))
    config = Config({**family.defaults, **values}, path, architecture)
    for prepare in family.prepare:
        prepare(config)
    metadata = vocabulary(family, config, pre, [])
    return {"general.architecture": family.name} | {key: value.plain() for key, value in metadata.items()}

"""A Hugging Face checkpoint as a `Model`: read from headers and small files, no weight is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ggquant.architectures.config import Config
from ggquant.architectures.engine import PACKED, build_tensors, intermediate_type
from ggquant.architectures.family import Family, write
from ggquant.architectures.registry import family_of
from ggquant.bounded_json import read_object
from ggquant.checkpoint_index import index_checkpoint
from ggquant.errors import CheckpointError, UnsupportedError
from ggquant.metadata import MetaValue
from ggquant.model import MetaDict, Model
from ggquant.model_card import describe
from ggquant.tokenizers.build import vocabulary

_FILE_TYPES = {"F32": 0, "BF16": 32}
_PACKED_FILE_TYPE = 38
_QUANTIZATION_VERSION = 2


def open_checkpoint(source: Path, pre: str | None = None) -> Model:
    """The model in a checkpoint, with metadata as llama.cpp's converter would give its intermediate file.

    Args:
        source: a folder with config.json and safetensors, or one `.safetensors` file beside its config.json.
        pre: name of the pre-tokenizer, where the user chooses it.

    Raises:
        FileError: a file cannot be read.
        MalformedFileError: a file breaks its format.
        CheckpointError: something is missing, superfluous or contradictory.
        UnsupportedError: an architecture or a kind of weights that cannot be converted.
    """
    folder = source if source.is_dir() else source.parent
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no config.json; a checkpoint needs one beside its weights", file=str(folder))
    values = read_object(path)
    architecture = architecture_of(values, path)
    nested = values.get("text_config")
    if isinstance(nested, dict):
        values = {**values, **nested}
    family = family_of(architecture, str(path))
    stored = index_checkpoint(source)
    _refuse_packed(family, values, path)
    config = Config({**family.defaults, **values}, path, architecture)
    for prepare in family.prepare:
        prepare(config)
    warnings: list[str] = []
    tensors = build_tensors(family, config, stored, warnings)
    packed = any(tensor.dtype == PACKED for tensor in tensors)
    config.values["file_type"] = _PACKED_FILE_TYPE if packed else _FILE_TYPES[intermediate_type(stored)]
    metadata: MetaDict = {"general.architecture": MetaValue("STRING", family.name)}
    write(family.early, config, family.name, metadata)
    metadata |= describe(folder, tensors, warnings)
    write(family.metadata, config, family.name, metadata)
    metadata["general.quantization_version"] = MetaValue("UINT32", _QUANTIZATION_VERSION)
    metadata |= vocabulary(family, config, pre, warnings)
    return Model(family.name, metadata, tensors, warnings)


def architecture_of(values: dict[str, Any], path: Path) -> str:
    """The class name that says what the model is; a multimodal model's text part has its own."""
    nested = values.get("text_config")
    for holder in (nested, values):
        names = holder.get("architectures") if isinstance(holder, dict) else None
        if isinstance(names, list) and names and isinstance(names[0], str):
            return names[0]
    raise CheckpointError(f"{path}: no 'architectures', so the model's family is unknown", file=str(path))


def _refuse_packed(family: Family, values: dict[str, Any], path: Path) -> None:
    quantization = values.get("quantization_config")
    if isinstance(quantization, dict) and quantization.get("quant_method") not in family.packed:
        method = quantization.get("quant_method", "an unnamed method")
        raise UnsupportedError(
            f"{path}: these weights are already quantized ({method}); convert the original model instead",
            file=str(path),
        )

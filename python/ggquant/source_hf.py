"""A Hugging Face checkpoint as a `Model`: read from headers and small files, no weight is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ggquant.architectures.config import Config
from ggquant.architectures.engine import PACKED, build_tensors, intermediate_type
from ggquant.architectures.family import Family, write
from ggquant.architectures.registry import family_of
from ggquant.bounded_json import read_object
from ggquant.checkpoint_index import StoredTensor, index_checkpoint
from ggquant.errors import CheckpointError
from ggquant.metadata import MetaValue
from ggquant.model import MetaDict, Model
from ggquant.model_card import describe
from ggquant.packed.checkpoint import quantization_of, unpacked
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
    warnings: list[str] = []
    quantization = quantization_of(values, path)
    if quantization is not None and quantization.method not in family.packed:
        stored = unpacked(stored, quantization, warnings)
    config = Config({**family.defaults, **values}, path, architecture)
    model = describe_model(family, config, stored, pre)
    model.warnings[:0] = warnings
    return model


def describe_model(family: Family, config: Config, stored: dict[str, StoredTensor], pre: str | None) -> Model:
    """The model that a family makes of hyperparameters and stored tensors.

    Args:
        family: whose rules to follow.
        config: hyperparameters with the family's defaults, not prepared yet; its folder holds the tokenizer.
        stored: the tensors, in file order.
        pre: name of the pre-tokenizer, where the user chooses it.

    Raises:
        CheckpointError, UnsupportedError, MalformedFileError: as `open_checkpoint`.
    """
    for prepare in family.prepare:
        prepare(config)
    warnings = list(family.contradictions(config))
    tensors = build_tensors(family, config, stored, warnings)
    packed = any(tensor.dtype == PACKED for tensor in tensors)
    config.values["file_type"] = _PACKED_FILE_TYPE if packed else _FILE_TYPES[intermediate_type(stored)]
    metadata: MetaDict = {"general.architecture": MetaValue("STRING", family.name)}
    write(family.early, config, family.name, metadata)
    metadata |= describe(config.folder, tensors, warnings)
    write(family.metadata, config, family.name, metadata)
    metadata["general.quantization_version"] = MetaValue("UINT32", _QUANTIZATION_VERSION)
    metadata |= vocabulary(family, config, pre, warnings)
    unwritten: MetaDict = {}
    write(family.beyond_gguf, config, family.name, unwritten)
    return Model(family.name, metadata, tensors, warnings, beyond_gguf=unwritten)


def architecture_of(values: dict[str, Any], path: Path) -> str:
    """The class name that says what the model is; a multimodal model's text part has its own."""
    nested = values.get("text_config")
    for holder in (nested, values):
        names = holder.get("architectures") if isinstance(holder, dict) else None
        if isinstance(names, list) and names and isinstance(names[0], str):
            return names[0]
    raise CheckpointError(f"{path}: no 'architectures', so the model's family is unknown", file=str(path))

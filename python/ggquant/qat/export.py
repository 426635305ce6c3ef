"""Write a trained model: the codes that its last evaluation saw, not those of a second search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch

from ggquant.errors import FileError, UnsupportedError, UsageError
from ggquant.gguf import GGUFWriter
from ggquant.metadata import Metadata, MetaValue
from ggquant.qat.fake import FakeQuantized
from ggquant.qat.mapping import stored_parameters
from ggquant.qat.prepare import control_of, fakes, originals, unwrap
from ggquant.source_hf import describe_model
from ggquant.tensor import QuantizedTensor

if TYPE_CHECKING:
    import os

    from ggquant.model import SourceTensor

_QUANTIZATION_VERSION = 2
_FLOATS: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def export_gguf(
    model: torch.nn.Module,
    tokenizer_dir: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    pre: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the model as a GGUF file that decodes, bit for bit, to the weights of the last evaluation forward.

    Args:
        model: a prepared model on which `model.eval(); model(...)` has run since the last weight update.
        tokenizer_dir: a folder with the tokenizer's files, such as the original checkpoint's.
        path: the file to write.
        pre: name of the pre-tokenizer, instead of the one found from the tokenizer.
        overwrite: replace an existing file when the new one is complete.

    Raises:
        UsageError: the model is not prepared, weights have changed since the last evaluation forward, or quantization
            is still off.
        FileError, CheckpointError, UnsupportedError: the file cannot be written, or the tokenizer not be converted.
    """
    control = control_of(model)
    layout = control.layout
    if not control.enabled:
        raise UsageError("quantization is switched off; leave the 'with disabled(model)' block first")
    folder = Path(tokenizer_dir)
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder; give the one with the tokenizer's files", file=str(folder))
    parameters = originals(model)
    encoded = _encoded(fakes(model), parameters)
    config = layout.config(folder)
    stored = stored_parameters(parameters, layout.arch, config)
    described = describe_model(layout.family, config, stored, pre)
    metadata = Metadata(described.metadata)
    metadata.set_last("general.quantization_version", MetaValue("UINT32", _QUANTIZATION_VERSION))
    metadata.set_last("general.file_type", MetaValue("UINT32", layout.variant.file_type))
    arrays = {name: p.detach().cpu().reshape(-1) for name, p in parameters.items()}
    with GGUFWriter(path, metadata, overwrite=overwrite) as writer:
        for decision in layout.decisions:
            source = layout.sources[decision.source]
            if decision.name in encoded:
                data = np.concatenate(encoded[decision.name])
                writer.add(decision.name, QuantizedTensor(data, decision.format, source.shape))
            else:
                writer.add(decision.name, _plain(source, decision.format, arrays))
    return Path(path)


def quantized_state(model: torch.nn.Module) -> dict[str, Any]:
    """What resuming a training bit for bit needs beside `state_dict()`: counts of updates, and kept scales.

    Save it beside the checkpoint (`torch.save` takes it) and give it to `restore_quantized_state` on a model prepared
    with the same arguments and holding the same weights.
    """
    return {name: fake.state() for name, fake in fakes(_prepared(model)).items()}


def restore_quantized_state(model: torch.nn.Module, state: dict[str, Any]) -> None:
    """Takes up what `quantized_state` gave.

    Raises:
        UsageError: the state belongs to another model or was prepared for other formats.
    """
    found = fakes(_prepared(model))
    if found.keys() != state.keys():
        odd = sorted(found.keys() ^ state.keys())
        raise UsageError(f"the saved state is of other weights: {', '.join(odd[:5])}")
    for name, fake in found.items():
        fake.restore(state[name])


def _prepared(model: torch.nn.Module) -> torch.nn.Module:
    control_of(model)
    return unwrap(model)


def _encoded(
    found: dict[str, FakeQuantized], parameters: dict[str, torch.nn.Parameter]
) -> dict[str, list[npt.NDArray[np.uint8]]]:
    """Encoded rows by GGUF tensor, in the tensor's order."""
    parts: dict[str, list[tuple[int, npt.NDArray[np.uint8]]]] = {}
    for name, fake in found.items():
        for piece, blocks in zip(fake.pieces, fake.blocks(parameters[name]), strict=True):
            parts.setdefault(piece.tensor, []).append((piece.order, blocks))
    return {tensor: [blocks for _, blocks in sorted(rows, key=lambda row: row[0])] for tensor, rows in parts.items()}


def _plain(source: SourceTensor, format: str, arrays: dict[str, torch.Tensor]) -> npt.NDArray[Any]:
    """A tensor that is not quantized, in the type that the file has it in."""
    kind = _FLOATS[format]
    if source.inline is not None:
        return np.frombuffer(source.inline, _FLOATS[source.dtype]).reshape(source.shape).astype(kind)
    parts = []
    for view in source.views:
        flat = arrays[view.file]
        walk = flat.as_strided(view.shape, view.strides, view.start + view.offset // flat.element_size())
        parts.append(walk.reshape(-1).float().numpy())
    values = np.concatenate(parts)
    for name, constant in source.ops:
        if name != "add":
            raise UnsupportedError(f"tensor '{source.name}': {name} cannot be computed from parameters")
        values = values + np.float32(constant)
    return values.reshape(source.shape).astype(kind)

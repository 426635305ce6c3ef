"""From a PyTorch model's parameters to the tensors of its GGUF file, and the format of each."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ggquant.architectures.config import Config
from ggquant.architectures.engine import build_tensors, intermediate_type
from ggquant.architectures.family import Family, write
from ggquant.architectures.registry import family_of
from ggquant.checkpoint_index import StoredTensor
from ggquant.errors import ImatrixError, UnsupportedError, UsageError
from ggquant.imatrix import Imatrix
from ggquant.model import MetaDict, SourceTensor, View
from ggquant.policy import Decision, ModelFacts, Options, Variant, choose, find_variant, refusals
from ggquant.qat.names import checkpoint_tensors
from ggquant.registry import format_info

_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_UNKEPT = frozenset({"F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Part of one parameter that becomes rows of one GGUF tensor.

    Attributes:
        tensor: GGUF name.
        order: place among the parts of that tensor, in its row order.
        parameter: name of the parameter in the model.
        shape, strides, start: the walk over the parameter's elements, as `torch.as_strided` takes it; in its
            order the elements are the tensor's rows, as GGUF stores them.
        rows, columns: size of what it becomes.
        format: block format.
        importance: float32 `[experts, columns]`, or None; `rows_per_expert` rows share one of them.
    """

    tensor: str
    order: int
    parameter: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    rows: int
    columns: int
    format: str
    importance: npt.NDArray[np.float32] | None = None
    rows_per_expert: int = 1

    def gather(self, weight: torch.Tensor) -> torch.Tensor:
        """The rows, `[rows, columns]`; without a copy where they lie in the parameter as in the file."""
        return weight.as_strided(self.shape, self.strides, self.start).reshape(self.rows, self.columns)

    def scatter(self, rows: torch.Tensor, weight: torch.Tensor) -> None:
        """Writes rows back to where they belong in a tensor laid out as the parameter."""
        weight.as_strided(self.shape, self.strides, self.start).copy_(rows.reshape(self.shape))


@dataclass(frozen=True, slots=True)
class Layout:
    """Every tensor of the GGUF file and where its values are in the model.

    Attributes:
        values: hyperparameters as the model's configuration has them.
        architecture: name of the model's class.
        variant: the variant whose rules chose the formats.
        decisions: formats, in the order of the file.
        sources: tensors by GGUF name; a view's file is the name of the parameter.
        pieces: what is quantized, by parameter.
    """

    values: dict[str, object]
    architecture: str
    variant: Variant
    decisions: list[Decision]
    sources: dict[str, SourceTensor]
    pieces: dict[str, list[Piece]] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        """The model family's declarations."""
        return family_of(self.architecture, self.architecture)

    @property
    def arch(self) -> str:
        """Name of the architecture in GGUF."""
        return self.family.name

    def config(self, folder: Path) -> Config:
        """The hyperparameters as if read from `folder`, where the tokenizer is."""
        return Config({**self.family.defaults, **self.values}, folder / "config.json", self.architecture)


def lay_out(
    model: torch.nn.Module,
    variant: str,
    scheme: str | Mapping[str, str],
    imatrix: Imatrix | None,
) -> Layout:
    """Finds the model's family, its GGUF tensors, and the formats that `variant` gives them.

    Args:
        model: a model of transformers (it has a `config`, and parameters named as in its checkpoint).
        variant: name of a variant.
        scheme: "variant", or regular expressions (searched in GGUF and parameter names, the first match counts) with
            the format of what they match; everything else follows the variant.
        imatrix: importances by GGUF name.

    Raises:
        UnsupportedError: the family is unknown, or a parameter cannot be trained under quantization.
        UsageError: unknown variant, format or scheme; a format that does not fit a tensor.
        ImatrixError: a format needs importances that are not there.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        raise UnsupportedError(f"{type(model).__name__} has no transformers configuration to tell its family from")
    architecture = type(model).__name__
    values = {key: value for key, value in config.to_dict().items() if value is not None}
    family = family_of(architecture, architecture)
    complete = Config({**family.defaults, **values}, Path(architecture) / "config.json", architecture)
    for prepare in family.prepare:
        prepare(complete)
    for contradiction in family.contradictions(complete):
        raise UnsupportedError(f"{architecture}: {contradiction}, and so than those that training would see")
    stored = stored_parameters(dict(model.named_parameters()), family.name, complete)
    tensors = build_tensors(family, complete, stored, [])
    complete.values["file_type"] = 0 if intermediate_type(stored) == "F32" else 32
    metadata: MetaDict = {}
    write(family.metadata, complete, family.name, metadata)
    chosen = find_variant(variant)
    facts = ModelFacts.from_metadata(metadata, [t.name for t in tensors], arch=family.name)
    sources = {t.name: t for t in tensors}
    names: Collection[str] | bool = imatrix.entries if imatrix is not None else False
    options = Options()
    decisions = choose(facts, [(t.name, t.shape, t.dtype) for t in tensors], chosen, imatrix=names, options=options)
    decisions = _with_scheme(decisions, sources, scheme)
    obstacles = refusals(decisions, imatrix=names, options=options)
    if obstacles:
        others = f" (and {len(obstacles) - 1} more tensors)" if len(obstacles) > 1 else ""
        raise ImatrixError(f"{obstacles[0].message}{others}", tensor=obstacles[0].tensor)
    layout = Layout(values, architecture, chosen, decisions, sources)
    for decision in decisions:
        source = sources[decision.source]
        if decision.format in _UNKEPT or source.inline is not None:
            continue
        for piece in _pieces(source, decision, imatrix):
            layout.pieces.setdefault(piece.parameter, []).append(piece)
    return layout


def stored_parameters(
    parameters: Mapping[str, torch.nn.Parameter], arch: str, config: Config
) -> dict[str, StoredTensor]:
    """The parameters as a checkpoint would list them; a tensor's file names the parameter that holds it.

    Raises:
        UnsupportedError: a parameter of a type that checkpoints of weights do not have, or with gaps in memory.
    """
    stored: dict[str, StoredTensor] = {}
    for name, parameter in sorted(parameters.items()):
        if parameter.dtype not in _DTYPES:
            raise UnsupportedError(f"parameter {name} is {parameter.dtype}; train in float32, bfloat16 or float16")
        if not parameter.is_contiguous():
            raise UnsupportedError(f"parameter {name} is not contiguous; call .contiguous() on it first")
        whole = StoredTensor(name, name, 0, _DTYPES[parameter.dtype], tuple(parameter.shape))
        for tensor in checkpoint_tensors(arch, whole, parameter.element_size()):
            stored[tensor.name] = tensor
    return stored


def _with_scheme(
    decisions: list[Decision], sources: Mapping[str, SourceTensor], scheme: str | Mapping[str, str]
) -> list[Decision]:
    if isinstance(scheme, str):
        if scheme != "variant":
            raise UsageError(f"scheme {scheme!r} is unknown; give 'variant' or a mapping of patterns to formats")
        return decisions
    patterns = [(re.compile(pattern), format_info(format)) for pattern, format in scheme.items()]
    used = set()
    result = []
    for decision in decisions:
        names = [decision.name, *(view.file for view in sources[decision.source].views)]
        for number, (pattern, info) in enumerate(patterns):
            if decision.quantizable and any(pattern.search(name) for name in names):
                if info.name not in _UNKEPT and (not info.storage or decision.shape[-1] % info.block_len):
                    raise UsageError(
                        f"tensor '{decision.name}': rows of {decision.shape[-1]} weights cannot take "
                        f"{info.name}, which {pattern.pattern!r} asks for",
                        tensor=decision.name,
                    )
                used.add(number)
                decision = replace(
                    decision, wanted=info.name, format=info.name, why=f"scheme {pattern.pattern}", fallback=None
                )
                break
        result.append(decision)
    for number, (pattern, _) in enumerate(patterns):
        if number not in used:
            raise UsageError(f"scheme: {pattern.pattern!r} matches no tensor that can be quantized")
    return result


def _pieces(source: SourceTensor, decision: Decision, imatrix: Imatrix | None) -> list[Piece]:
    if source.ops:
        raise UnsupportedError(
            f"tensor '{source.name}' is computed from its parameter, and cannot be trained under quantization",
            tensor=source.name,
        )
    columns = source.shape[-1]
    experts = source.shape[-3] if len(source.shape) > 2 else 1
    importance = _importance(source, experts, imatrix)
    rows_per_expert = source.shape[-2] if len(source.shape) > 1 else 1
    pieces: list[Piece] = []
    done = 0
    for order, view in enumerate(source.views):
        rows = prod(view.shape) // columns
        part = importance
        if importance is not None and experts > 1:
            first, last = done // rows_per_expert, (done + rows + rows_per_expert - 1) // rows_per_expert
            part = importance[first:last]
        pieces.append(
            Piece(
                tensor=source.name,
                order=order,
                parameter=view.file,
                shape=view.shape,
                strides=view.strides,
                start=view.start + _first(view),
                rows=rows,
                columns=columns,
                format=decision.format,
                importance=part,
                rows_per_expert=rows_per_expert if experts > 1 else max(rows, 1),
            )
        )
        done += rows
    return pieces


def _first(view: View) -> int:
    return view.offset // (4 if view.dtype == "F32" else 2)


def _importance(source: SourceTensor, experts: int, imatrix: Imatrix | None) -> npt.NDArray[np.float32] | None:
    values = imatrix.entries.get(source.name) if imatrix is not None else None
    if values is None:
        return None
    if values.size != source.shape[-1] * experts:
        raise ImatrixError(
            f"tensor '{source.name}': the importance matrix has {values.size} values, the tensor takes "
            f"{source.shape[-1] * experts}; it was made for another model",
            tensor=source.name,
        )
    return values.reshape(experts, source.shape[-1])

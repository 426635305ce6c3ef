"""From a checkpoint's tensors to the model's: a family's rules, carried out on views."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ggquant.architectures.config import Config
from ggquant.architectures.family import Family, Output, Rule
from ggquant.architectures.lazy import LazyTensor
from ggquant.checkpoint_index import StoredTensor
from ggquant.errors import CheckpointError
from ggquant.model import SourceTensor

_FLOATS = ("BF16", "F16", "F32", "F8_E4M3", "F8_E5M2")
_FIT_BF16 = ("BF16", "F8_E4M3", "F8_E5M2")
PACKED = "MXFP4"
"""The block format of experts that come packed and stay as they are."""

_ALWAYS_F32 = re.compile(
    r"(.*_norm|blk\.\d+\.(ffn_gate_inp|ffn_gate_inp_shexp|ssm_conv1d|ssm_conv1d_[qkv]|shortconv\.conv"
    r"|time_mix_first|time_mix_w1|time_mix_w2|time_mix_decay_w1|time_mix_decay_w2|time_mix_lerp_fused"
    r"|altup_correct_coef|altup_predict_coef|indexer\.proj)|position_embd|token_types)\.weight"
)
"""Matrices that llama.cpp keeps in float32 whatever the file's type."""

_OTHER_MODALITIES = re.compile(
    r"^(mlp|vit\.|vpm\.|siglip2\.|conformer\.|merger\.|resampler\.)"
    r"|visual\.|vision\.|vision_|audio\.|audio_|projector\.|pre_mm_projector_norm|image_newline|patch_embed"
)


@dataclass(frozen=True, slots=True)
class _Target:
    """A rule at work on one layer, with how many sources it takes there."""

    rule: int
    layer: int
    expected: int


def build_tensors(
    family: Family, config: Config, stored: dict[str, StoredTensor], warnings: list[str]
) -> list[SourceTensor]:
    """All tensors of the model, in the order of llama.cpp's converter.

    Args:
        family: whose rules to follow.
        config: hyperparameters, complete.
        stored: the checkpoint, in file order.
        warnings: gets a line about tensors that belong to another modality.

    Raises:
        CheckpointError: a tensor is missing, unknown to the family, or of the wrong shape.
        UnsupportedError: weights of a type that cannot be converted.
    """
    checkpoint = _renamed(family, config, stored, warnings)
    intermediate = intermediate_type(checkpoint)
    tensors = [tensor for make in family.extra_tensors for tensor in make(config)]
    made = _Assembly(family, config, checkpoint, intermediate).run()
    tensors += sorted(made, key=lambda tensor: tensor.dtype != PACKED)  # packed ones come first
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise CheckpointError(f"{config.path}: two tensors would be named {tensor.name}", tensor=tensor.name)
        seen.add(tensor.name)
    return tensors


def intermediate_type(checkpoint: dict[str, StoredTensor]) -> str:
    """BF16 where it holds every matrix exactly, else F32: the file that llama.cpp would quantize from."""
    matrices = [t.dtype for t in checkpoint.values() if len(t.shape) >= 2 and t.dtype in _FLOATS]
    return "BF16" if matrices and all(dtype in _FIT_BF16 for dtype in matrices) else "F32"


def _renamed(
    family: Family, config: Config, stored: dict[str, StoredTensor], warnings: list[str]
) -> dict[str, StoredTensor]:
    renames = [rename for rename in family.renames if rename.when(config)]
    kept: dict[str, StoredTensor] = {}
    skipped = 0
    for name, tensor in stored.items():
        if _OTHER_MODALITIES.search(name):
            skipped += 1
            continue
        new = name.replace("language_model.", "")
        for rename in renames:
            new = re.sub(rename.pattern, rename.replacement, new)
        if any(re.fullmatch(pattern, new) for pattern in family.ignore):
            continue
        if new in kept:
            raise CheckpointError(
                f"{tensor.file}: {name} and {kept[new].name} are the same tensor to the model", tensor=name
            )
        kept[new] = tensor
    if skipped:
        warnings.append(f"{skipped} tensors of other modalities (vision, audio) are left out: this is the text model")
    return kept


class _Assembly:
    """One pass over the checkpoint that matches names to rules and emits each target when it is complete."""

    def __init__(self, family: Family, config: Config, checkpoint: dict[str, StoredTensor], intermediate: str) -> None:
        self.family = family
        self.config = config
        self.checkpoint = checkpoint
        self.intermediate = intermediate
        self.layers = config.positive("n_layers", "num_hidden_layers", "n_layer", "num_layers")
        self.sources = self._expand()
        if len(checkpoint) > 4 * len(self.sources) + 1024:
            raise self._error("far more tensors than the configuration describes", None)

    def run(self) -> list[SourceTensor]:
        extra = [name for name in self.checkpoint if name not in self.sources]
        if extra:
            shown = ", ".join(extra[:5]) + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
            raise self._error(f"{self.family.name} models have no tensor {shown}", extra[0])
        arrived: dict[tuple[str, int], list[str]] = {}
        tensors: list[SourceTensor] = []
        group_sizes = self._group_sizes()
        for name in self.checkpoint:
            rule_index, layer = self.sources[name]
            rule = self.family.rules[rule_index]
            group = (rule.group, layer) if rule.group else (f"#{rule_index}", layer)
            names = arrived.setdefault(group, [])
            names.append(name)
            if len(names) == group_sizes[group]:
                for index in sorted({self.sources[n][0] for n in names}):
                    tensors += self._outputs(self.family.rules[index], layer)
        self._check_complete(arrived, group_sizes)
        return tensors

    def _expand(self) -> dict[str, tuple[int, int]]:
        """Every checkpoint name that a rule can take, with the rule and the layer (-1 outside of layers)."""
        names: dict[str, tuple[int, int]] = {}
        for index, rule in enumerate(self.family.rules):
            layered = any("{bid}" in source for source in rule.sources)
            for layer in range(self.layers) if layered else (-1,):
                for source in self._source_names(rule, layer):
                    names[source] = (index, layer)
        return names

    def _source_names(self, rule: Rule, layer: int) -> list[str]:
        experts = self._experts() if rule.combine == "stack" else 1
        return [
            source.replace("{bid}", str(layer)).replace("{xid}", str(expert))
            for source in rule.sources
            for expert in range(experts)
        ]

    def _experts(self) -> int:
        return self.config.positive("num_local_experts", "num_experts", "n_routed_experts")

    def _group_sizes(self) -> dict[tuple[str, int], int]:
        """How many sources of each group of rules are there: absent optional ones are not waited for."""
        sizes: dict[tuple[str, int], int] = {}
        for name, (index, layer) in self.sources.items():
            rule = self.family.rules[index]
            if name in self.checkpoint or self._needs(rule, layer):
                group = (rule.group, layer) if rule.group else (f"#{index}", layer)
                sizes[group] = sizes.get(group, 0) + 1
        return sizes

    def _check_complete(self, arrived: dict[tuple[str, int], list[str]], sizes: dict[tuple[str, int], int]) -> None:
        for name, (index, layer) in self.sources.items():
            if name not in self.checkpoint and self._needs(self.family.rules[index], layer):
                raise self._error(f"missing tensor {name}", name)
        for group, size in sizes.items():
            if len(arrived.get(group, ())) != size:
                raise self._error(f"incomplete group of tensors {group[0]} in layer {group[1]}", None)

    def _needs(self, rule: Rule, layer: int) -> bool:
        other = rule.unless.replace("{bid}", str(layer))
        return rule.required and (not other or other not in self.checkpoint)

    def _outputs(self, rule: Rule, layer: int) -> Iterator[SourceTensor]:
        names = self._source_names(rule, layer)
        missing = [name for name in names if name not in self.checkpoint]
        if missing:
            raise self._error(f"missing tensor {missing[0]}", missing[0])
        stored = [self.checkpoint[name] for name in names]
        for tensor in stored:
            self._check(rule, tensor)
        for output in rule.outputs:
            yield self._output(rule, output, stored, output.name.replace("{bid}", str(layer)))

    def _output(self, rule: Rule, output: Output, stored: list[StoredTensor], name: str) -> SourceTensor:
        parts = [LazyTensor.of(tensor) for tensor in stored]
        for step in output.steps:
            parts = [step(part, self.config) for part in parts]
        views = tuple(part.view() for part in parts)
        shape = parts[0].shape
        if rule.combine == "mxfp4":
            if len(parts[1].shape) != 3 or shape != (*parts[1].shape, 16):
                raise self._error(f"packed codes and scales of {name} do not fit together", stored[0].name)
            experts, rows, blocks = parts[1].shape
            return SourceTensor(name, (experts, rows, blocks * 32), PACKED, views, (("mxfp4_repack", 0.0),))
        if any(part.shape[rule.combine == "concat" :] != shape[rule.combine == "concat" :] for part in parts):
            raise self._error(f"the parts of {name} have different shapes", stored[0].name)
        if rule.combine == "stack":
            shape = (len(parts), *shape)
        elif rule.combine == "concat":
            shape = (sum(part.shape[0] for part in parts), *shape[1:])
        return SourceTensor(name, shape, self._type(name, shape), views, parts[0].ops)

    def _type(self, name: str, shape: tuple[int, ...]) -> str:
        if len(shape) <= 1 or not name.endswith(".weight") or _ALWAYS_F32.fullmatch(name):
            return "F32"
        return self.intermediate

    def _check(self, rule: Rule, tensor: StoredTensor) -> None:
        if tensor.dtype not in (("U8",) if rule.combine == "mxfp4" else _FLOATS):
            raise self._error(
                f"tensor {tensor.name} is stored as {tensor.dtype}, which cannot be converted",
                tensor.name,
            )
        if not rule.shape:
            return
        wanted = tuple(-1 if dim == "*" else self._dim(dim) for dim in rule.shape.split(" "))
        if len(wanted) != len(tensor.shape) or any(w not in (-1, n) for w, n in zip(wanted, tensor.shape, strict=True)):
            shown = tuple("any" if w == -1 else w for w in wanted)
            raise self._error(
                f"tensor {tensor.name} has shape {tensor.shape}, the config asks for {shown}", tensor.name
            )

    def _dim(self, name: str) -> int:
        return int(name) if name.isdecimal() else self.family.dims[name](self.config)

    def _error(self, reason: str, tensor: str | None) -> CheckpointError:
        stored = self.checkpoint.get(tensor) if tensor is not None else None
        file = stored.file if stored is not None else str(self.config.folder)
        return CheckpointError(f"{file}: {reason}", file=file, tensor=tensor)

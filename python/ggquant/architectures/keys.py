"""MetaDict entries: which hyperparameter becomes which key, of which type.

Order matters: entries are written as they stand, and a key written again keeps its first place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ggquant.architectures.config import Config
from ggquant.architectures.family import Entry
from ggquant.bounded_json import read_list, read_object
from ggquant.errors import MalformedFileError, UnsupportedError
from ggquant.metadata import MetaValue

_LIMITS = {"UINT32": (0, 1 << 32), "INT32": (-(1 << 31), 1 << 31)}
_ITEM_TYPES = {bool: "BOOL", int: "INT32", float: "FLOAT32", str: "STRING"}


def key(
    name: str,
    kind: str,
    *sources: str,
    default: Any = None,
    required: bool = False,
    skip_falsy: bool = False,
    compute: Callable[[Config], Any] | None = None,
) -> Entry:
    """One key.

    Args:
        name: the key without the architecture's prefix, or with a leading `/` an absolute one.
        kind: GGUF type; a list becomes an array with items of its own kind.
        sources: hyperparameters, the first one present counts.
        default: where none is present or it is null.
        required: null or absent is an error.
        skip_falsy: zero, false and empty are not written either.
        compute: gives the value instead of `sources`.
    """

    def entry(config: Config) -> Iterable[tuple[str, MetaValue]]:
        value = config.first(*sources) if compute is None else compute(config)
        if value is None:
            value = default
        if value is None and required:
            raise config.wrong(sources[0], f"a value for {name}")
        if value is None or (skip_falsy and not value):
            return
        yield name, typed(config, sources[0] if sources else name, kind, value)

    return entry


def typed(config: Config, source: str, kind: str, value: Any) -> MetaValue:
    """`value` as a metadata value of type `kind`; an error naming `source` where it cannot be."""
    if isinstance(value, list) and value:
        item_kind = _ITEM_TYPES.get(type(value[0]))
        if item_kind is None or any(type(item) is not type(value[0]) for item in value):
            raise config.wrong(source, "a list of values of one kind")
        return MetaValue("ARRAY", value, item_kind)
    if kind == "FLOAT32" and type(value) in (int, float):
        return MetaValue(kind, float(value))
    if kind == "BOOL" and type(value) is bool:
        return MetaValue(kind, value)
    if kind == "STRING" and type(value) is str:
        return MetaValue(kind, value)
    if kind in _LIMITS and type(value) in (int, bool) and _LIMITS[kind][0] <= value < _LIMITS[kind][1]:
        return MetaValue(kind, int(value))
    raise config.wrong(source, f"a value that fits {kind}")


def _causal(config: Config) -> Iterable[tuple[str, MetaValue]]:
    if config.values.get("is_causal") is False:
        yield "attention.causal", MetaValue("BOOL", False)


def rope_scaling(config: Config) -> Iterable[tuple[str, MetaValue]]:
    """How positions beyond the trained length are scaled; kinds that need no key write none."""
    rope = full_attention_rope(config)
    kind, factor = rope.get("rope_type"), rope.get("factor")
    if kind in ("su", "longrope"):
        yield "rope.scaling.type", MetaValue("STRING", "longrope")
    if kind not in ("linear", "yarn") or factor is None:
        return
    yield "rope.scaling.type", MetaValue("STRING", kind)
    yield "rope.scaling.factor", typed(config, "rope_parameters", "FLOAT32", factor)
    if kind == "linear":
        return
    original = rope.get("original_max_position_embeddings")
    yield "rope.scaling.original_context_length", typed(config, "rope_parameters", "UINT32", original)
    for name, value in (
        ("yarn_ext_factor", rope.get("extrapolation_factor")),
        ("yarn_attn_factor", rope.get("attention_factor", rope.get("attn_factor"))),
        ("yarn_beta_fast", rope.get("beta_fast")),
        ("yarn_beta_slow", rope.get("beta_slow")),
    ):
        if value is not None:
            yield f"rope.scaling.{name}", typed(config, "rope_parameters", "FLOAT32", value)


def full_attention_rope(config: Config) -> dict[str, Any]:
    """RoPE parameters of layers with full attention, where kinds of layers differ."""
    rope = config.table("rope_parameters")
    nested = rope.get("full_attention", rope)
    if not isinstance(nested, dict):
        raise config.wrong("rope_parameters", "an object of objects")
    return nested


def _rope_bases(config: Config) -> Iterable[tuple[str, MetaValue]]:
    rope = config.table("rope_parameters")
    if (sections := rope.get("mrope_section")) is not None:
        padded = [*sections, 0, 0, 0, 0][: max(4, len(sections))][:4]
        yield "rope.dimension_sections", typed(config, "rope_parameters", "INT32", padded)
    if (theta := full_attention_rope(config).get("rope_theta")) is not None:
        yield "rope.freq_base", typed(config, "rope_theta", "FLOAT32", theta)
    local = rope.get("sliding_attention")
    if isinstance(local, dict) and (theta := local.get("rope_theta")) is not None:
        yield "rope.freq_base_swa", typed(config, "rope_local_base_freq", "FLOAT32", theta)


_GATING = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}


def _expert_gating(config: Config) -> Iterable[tuple[str, MetaValue]]:
    name = config.first(
        "score_function", "scoring_func", "score_func",
        "moe_router_activation", "moe_router_activation_func", "expert_selection_fn",
    )  # fmt: skip
    if name is None:
        return
    if name not in _GATING:
        raise config.wrong("scoring_func", f"one of {', '.join(_GATING)}")
    yield "expert_gating_func", MetaValue("UINT32", _GATING[name])


def _head_lengths(config: Config) -> Iterable[tuple[str, MetaValue]]:
    if (width := config.values.get("head_dim")) is not None:
        yield "attention.key_length", typed(config, "head_dim", "UINT32", width)
        yield "attention.value_length", typed(config, "head_dim", "UINT32", width)


def file_type(config: Config) -> Iterable[tuple[str, MetaValue]]:
    """Where the file type stands; the value is the intermediate file's, set by the engine."""
    yield "/general.file_type", typed(config, "file_type", "UINT32", config.values["file_type"])


_POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}
_POOLING_FLAGS = {"pooling_mode_mean_tokens": 1, "pooling_mode_cls_token": 2, "pooling_mode_lasttoken": 3}


def pooling(config: Config) -> Iterable[tuple[str, MetaValue]]:
    """How an embedding model makes one vector of all tokens', from sentence-transformers' module files."""
    path = config.folder / "modules.json"
    folder = _pooling_folder(path) if path.is_file() else None
    if folder is not None:
        settings = read_object(config.folder / folder / "config.json")
        kind = next((kind for flag, kind in _POOLING_FLAGS.items() if settings.get(flag)), None)
        kind = kind or _POOLING.get(str(settings.get("pooling_mode")))
        if kind is None:
            raise UnsupportedError(f"{path}: only mean, first and last token pooling are supported", file=str(path))
        yield "pooling_type", MetaValue("UINT32", kind)
    if (classifier := config.first("classifier_pooling")) is not None:
        if classifier not in ("cls", "mean"):
            raise config.wrong("classifier_pooling", "cls or mean")
        yield "classifier.pooling_type", MetaValue("UINT32", _POOLING[classifier])


def _pooling_folder(path: Path) -> str | None:
    for module in read_list(path):
        if isinstance(module, dict) and str(module.get("type", "")).endswith("Pooling"):
            folder = module.get("path")
            if not isinstance(folder, str) or Path(folder).is_absolute() or ".." in Path(folder).parts:
                raise MalformedFileError(f"{path}: the pooling module has no folder here", file=str(path))
            return folder
    return None


BASE: tuple[Entry, ...] = (
    key("block_count", "UINT32", "n_layers", "num_hidden_layers", "n_layer", "num_layers", required=True),
    key(
        "context_length", "UINT32",
        "max_position_embeddings", "n_ctx", "n_positions",
        "max_length", "max_sequence_length", "model_max_length",
    ),
    key("embedding_length", "UINT32", "hidden_size", "n_embd", "dim"),
    key(
        "feed_forward_length", "UINT32",
        "prefix_dense_intermediate_size", "dense_intermediate_size",
        "intermediate_size", "n_inner", "hidden_dim",
    ),
    key("attention.head_count", "UINT32", "num_attention_heads", "n_head", "n_heads"),
    key("attention.head_count_kv", "UINT32", "num_key_value_heads", "n_kv_heads"),
    _causal,
    rope_scaling,
    _rope_bases,
    key("attention.layer_norm_rms_epsilon", "FLOAT32", "rms_norm_eps", "norm_eps"),
    key("attention.layer_norm_epsilon", "FLOAT32", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    key("expert_count", "UINT32", "num_local_experts", "num_experts", "n_routed_experts"),
    key("expert_used_count", "UINT32", "num_experts_per_tok", "num_experts_per_token", "top_k_experts"),
    key("expert_group_count", "UINT32", "n_group"),
    key("expert_group_used_count", "UINT32", "topk_group"),
    _expert_gating,
    _head_lengths,
    file_type,
)  # fmt: skip
"""What most decoders write, in this order, before what is their own."""

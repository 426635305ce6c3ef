"""Phi-3 and Phi-4: q, k and v in one tensor, gate and up in another; factors for long contexts."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ggquant.architectures import beyond_gguf, rope
from ggquant.architectures.config import Config
from ggquant.architectures.decoder import BLOCK, DIMS, EMBEDDINGS, LAYER, NORMS, UNUSED, fill_kv_heads
from ggquant.architectures.family import Family, module
from ggquant.architectures.keys import file_type, key
from ggquant.metadata import MetaValue
from ggquant.model import SourceTensor


def _long_rope(config: Config) -> None:
    """Older names of the same scaling, and the share of each head that rotates."""
    parameters = config.table("rope_parameters")
    if parameters.get("rope_type") in ("su", "yarn"):
        parameters["rope_type"] = "longrope"
    parameters.setdefault("partial_rotary_factor", 1.0)
    trained = config.values["original_max_position_embeddings"]
    parameters.setdefault("original_max_position_embeddings", trained)


def _rotated(config: Config) -> int:
    """How many dimensions of each head rotate."""
    share = config.table("rope_parameters")["partial_rotary_factor"]
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise config.wrong("partial_rotary_factor", "a share of a head")
    return int(share * config.positive("hidden_size")) // config.positive("num_attention_heads")


def _lengths(config: Config) -> tuple[int, int]:
    """The context length of today, and that of training."""
    trained = config.table("rope_parameters")["original_max_position_embeddings"]
    if type(trained) is not int or trained <= 1:
        raise config.wrong("original_max_position_embeddings", "a context length")
    return config.positive("max_position_embeddings"), trained


def _factor_lists(config: Config) -> dict[str, list[float]]:
    """The factors for long and for short contexts; none where the model has no scaling."""
    parameters = config.table("rope_parameters")
    if not parameters.get("long_factor"):
        return {}
    lists = {name: parameters.get(f"{name}_factor") for name in ("long", "short")}
    for values in lists.values():
        if (
            not isinstance(values, list)
            or len(values) != _rotated(config) // 2
            or not all(isinstance(n, int | float) for n in values)
        ):
            raise config.wrong("rope_scaling", f"{_rotated(config) // 2} long and as many short factors")
    return {name: values for name, values in lists.items() if values is not None}


def _attention_factor(config: Config) -> Iterable[tuple[str, MetaValue]]:
    if not _factor_lists(config):
        return
    if config.table("rope_parameters").get("rope_type") != "longrope":
        raise config.wrong("rope_scaling", "of the longrope kind, since it has factors")
    longest, trained = _lengths(config)
    scale = longest / trained
    factor = math.sqrt(1 + math.log(scale) / math.log(trained)) if scale > 1.0 else 1.0
    yield "rope.scaling.attn_factor", MetaValue("FLOAT32", factor)


def _factor_tensors(config: Config) -> Iterable[SourceTensor]:
    import numpy as np

    for name, values in _factor_lists(config).items():
        data = np.array(values, dtype="<f4")
        yield SourceTensor(f"rope_factors_{name}.weight", data.shape, "F32", inline=data.tobytes())


FAMILY = Family(
    name="phi3",
    architectures=("Phi3ForCausalLM",),
    rules=(
        *EMBEDDINGS,
        *NORMS,
        *module(f"{LAYER}.self_attn.qkv_proj", f"{BLOCK}.attn_qkv", shape="* E"),
        *module(f"{LAYER}.self_attn.o_proj", f"{BLOCK}.attn_output", shape="E Q"),
        *module(f"{LAYER}.mlp.gate_up_proj", f"{BLOCK}.ffn_up", shape="* E"),
        *module(f"{LAYER}.mlp.down_proj", f"{BLOCK}.ffn_down", shape="E F"),
    ),
    metadata=(
        key("context_length", "UINT32", "n_positions", "max_position_embeddings", required=True),
        key("rope.scaling.original_context_length", "UINT32", compute=lambda c: _lengths(c)[1]),
        key("embedding_length", "UINT32", "hidden_size", required=True),
        key("feed_forward_length", "UINT32", "intermediate_size", required=True),
        key("block_count", "UINT32", "num_hidden_layers", required=True),
        key("attention.head_count", "UINT32", "num_attention_heads", required=True),
        key("attention.head_count_kv", "UINT32", "num_key_value_heads", required=True),
        key("attention.layer_norm_rms_epsilon", "FLOAT32", "rms_norm_eps", required=True),
        key("rope.dimension_count", "UINT32", compute=_rotated),
        key("rope.freq_base", "FLOAT32", compute=lambda c: c.table("rope_parameters")["rope_theta"]),
        file_type,
        # Zero tells Phi-4, which has no window, from Phi-3.
        key("attention.sliding_window", "UINT32", "sliding_window", default=0),
    ),
    vocabulary=("phi3", "bpe"),
    early=(_attention_factor,),
    extra_tensors=(_factor_tensors,),
    dims=DIMS,
    defaults={
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    },
    prepare=(fill_kv_heads, rope.standardize(), _long_rope),
    ignore=UNUSED,
    beyond_gguf=(*beyond_gguf.COMMON, beyond_gguf.all_windows),
)

"""gpt-oss: experts with gate and up interleaved, stored input-first or packed as MXFP4; attention sinks."""

from __future__ import annotations

from typing import Any

from ggquant.architectures import beyond_gguf, rope
from ggquant.architectures.config import Config
from ggquant.architectures.decoder import (
    BLOCK,
    DIMS,
    EMBEDDINGS,
    LAYER,
    UNUSED,
    attention,
    fill_head_dim,
    fill_kv_heads,
)
from ggquant.architectures.family import Family, Output, Rule, module
from ggquant.architectures.graph import Graph, Half
from ggquant.architectures.keys import BASE, key
from ggquant.architectures.steps import every, transpose

_EXPERTS = f"{LAYER}.mlp.experts"
_TURN = transpose(-1, -2)


def _experts(source: str, shape: str, *outputs: Output, unless: str = "") -> Rule:
    other = f"{_EXPERTS}.{unless}" if unless else ""
    return Rule((f"{_EXPERTS}.{source}",), outputs, shape=shape, unless=other)


def _packed(source: str, *outputs: Output) -> Rule:
    sources = (f"{_EXPERTS}.{source}_blocks", f"{_EXPERTS}.{source}_scales")
    return Rule(sources, outputs, "mxfp4", required=False)


def _yarn_unless_said(config: Config) -> None:
    """The scaling that every released model has, and that transformers assumes."""
    values: dict[str, Any] = config.values
    if values.get("rope_parameters") is None and values.get("rope_scaling") is None:
        values["rope_parameters"] = {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        }


FAMILY = Family(
    name="gpt-oss",
    architectures=("GptOssForCausalLM",),
    rules=(
        *EMBEDDINGS,
        *module(f"{LAYER}.input_layernorm", f"{BLOCK}.attn_norm", shape="E"),
        *module(f"{LAYER}.post_attention_layernorm", f"{BLOCK}.post_attention_norm", shape="E"),
        *attention(),
        Rule((f"{LAYER}.self_attn.sinks",), (Output(f"{BLOCK}.attn_sinks.weight"),), shape="A"),
        *module(f"{LAYER}.mlp.router", f"{BLOCK}.ffn_gate_inp", shape="X E"),
        _experts(
            "down_proj",
            "X F E",
            Output(f"{BLOCK}.ffn_down_exps.weight", (_TURN,)),
            unless="down_proj_blocks",
        ),
        _experts("down_proj_bias", "X E", Output(f"{BLOCK}.ffn_down_exps.bias")),
        _experts(
            "gate_up_proj",
            "X E *",
            Output(f"{BLOCK}.ffn_gate_exps.weight", (_TURN, every(1, 0, 2))),
            Output(f"{BLOCK}.ffn_up_exps.weight", (_TURN, every(1, 1, 2))),
            unless="gate_up_proj_blocks",
        ),
        _experts(
            "gate_up_proj_bias",
            "X *",
            Output(f"{BLOCK}.ffn_gate_exps.bias", (every(1, 0, 2),)),
            Output(f"{BLOCK}.ffn_up_exps.bias", (every(1, 1, 2),)),
        ),
        _packed("down_proj", Output(f"{BLOCK}.ffn_down_exps.weight")),
        _packed(
            "gate_up_proj",
            Output(f"{BLOCK}.ffn_gate_exps.weight", (every(1, 0, 2),)),
            Output(f"{BLOCK}.ffn_up_exps.weight", (every(1, 1, 2),)),
        ),
    ),
    metadata=(
        *BASE,
        key("attention.sliding_window", "UINT32", "sliding_window", required=True),
        key("expert_feed_forward_length", "UINT32", "intermediate_size", required=True),
    ),
    vocabulary=("bpe",),
    dims={**DIMS, "A": lambda c: c.positive("num_attention_heads")},
    defaults={
        "num_hidden_layers": 36,
        "num_local_experts": 128,
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "head_dim": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "sliding_window": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "num_experts_per_tok": 4,
    },
    prepare=(_yarn_unless_said, fill_kv_heads, fill_head_dim, rope.standardize(150_000.0)),
    packed=("mxfp4",),
    ignore=UNUSED,
    graph=Graph(
        feed_forward=Half("post_attention_norm"),
        activation="swiglu_oai",
        router="softmax_chosen",
        full_every=2,
    ),
    beyond_gguf=(beyond_gguf.windows, beyond_gguf.yarn_truncates),
)

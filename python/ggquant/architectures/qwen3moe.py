"""Qwen3 with experts: one tensor an expert in most checkpoints, all in one in some."""

from __future__ import annotations

from collections.abc import Iterable

from ggquant.architectures import beyond_gguf, rope
from ggquant.architectures.config import Config
from ggquant.architectures.decoder import (
    BLOCK,
    DIMS,
    EMBEDDINGS,
    LAYER,
    NORMS,
    QK_NORMS,
    UNUSED,
    attention,
    fill_kv_heads,
)
from ggquant.architectures.family import Family, Output, Rule, experts, module
from ggquant.architectures.keys import BASE, key
from ggquant.architectures.steps import part

_EXPERT = f"{LAYER}.mlp.experts.{{xid}}"
_FUSED_DOWN = f"{LAYER}.mlp.experts.down_proj"
_FUSED_GATE_UP = f"{LAYER}.mlp.experts.gate_up_proj"
#: What transformers assumes where config.json does not say.
_NORMALIZES = False


def _unnormalized(config: Config) -> Iterable[str]:
    """llama.cpp always normalizes for this architecture, and GGUF has no key for it that it would read."""
    if not config.values.get("norm_topk_prob", _NORMALIZES):
        yield (
            "norm_topk_prob is false: the model does not make the weights of the chosen experts sum to 1, and "
            "llama.cpp does so with every qwen3moe file; it will compute other logits than the checkpoint"
        )


FAMILY = Family(
    name="qwen3moe",
    architectures=("Qwen3MoeForCausalLM",),
    rules=(
        *EMBEDDINGS,
        *NORMS,
        *attention(),
        *QK_NORMS,
        *module(f"{LAYER}.mlp.gate", f"{BLOCK}.ffn_gate_inp", shape="X E"),
        experts(f"{_EXPERT}.down_proj", f"{BLOCK}.ffn_down_exps", shape="E M", unless=_FUSED_DOWN),
        experts(f"{_EXPERT}.gate_proj", f"{BLOCK}.ffn_gate_exps", shape="M E", unless=_FUSED_GATE_UP),
        experts(f"{_EXPERT}.up_proj", f"{BLOCK}.ffn_up_exps", shape="M E", unless=_FUSED_GATE_UP),
        Rule((_FUSED_DOWN,), (Output(f"{BLOCK}.ffn_down_exps.weight"),), shape="X E M", required=False),
        Rule(
            (_FUSED_GATE_UP,),
            (
                Output(f"{BLOCK}.ffn_gate_exps.weight", (part(-2, 0, 2),)),
                Output(f"{BLOCK}.ffn_up_exps.weight", (part(-2, 1, 2),)),
            ),
            shape="X * E",
            required=False,
        ),
    ),
    metadata=(
        *BASE,
        key("expert_feed_forward_length", "UINT32", "moe_intermediate_size"),
        key("expert_shared_feed_forward_length", "UINT32", "shared_expert_intermediate_size"),
    ),
    vocabulary=("bpe",),
    dims=DIMS,
    defaults={
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_experts": 128,
    },
    prepare=(fill_kv_heads, rope.standardize()),
    ignore=UNUSED,
    beyond_gguf=(*beyond_gguf.COMMON, beyond_gguf.windows, beyond_gguf.router_normalizes(_NORMALIZES)),
    contradictions=_unnormalized,
)

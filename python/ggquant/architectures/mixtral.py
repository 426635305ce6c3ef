"""Mixtral: Mistral with experts, stacked into one tensor for each of their three weights."""

from __future__ import annotations

from dataclasses import replace

from ggquant.architectures import beyond_gguf, llama, rope
from ggquant.architectures.decoder import BLOCK, EMBEDDINGS, LAYER, NORMS, fill_kv_heads
from ggquant.architectures.family import experts, module

_EXPERT = f"{LAYER}.block_sparse_moe.experts.{{xid}}"

FAMILY = replace(
    llama.FAMILY,
    architectures=("MixtralForCausalLM",),
    rules=(
        *EMBEDDINGS,
        *NORMS,
        *llama.ATTENTION,
        *module(f"{LAYER}.block_sparse_moe.gate", f"{BLOCK}.ffn_gate_inp", shape="X E"),
        experts(f"{_EXPERT}.w1", f"{BLOCK}.ffn_gate_exps", shape="F E"),
        experts(f"{_EXPERT}.w2", f"{BLOCK}.ffn_down_exps", shape="E F"),
        experts(f"{_EXPERT}.w3", f"{BLOCK}.ffn_up_exps", shape="F E"),
    ),
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
    },
    prepare=(fill_kv_heads, rope.standardize(1_000_000.0)),
    renames=(),
    beyond_gguf=(*beyond_gguf.COMMON, beyond_gguf.all_windows),
)

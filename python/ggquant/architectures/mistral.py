"""Mistral: Llama's layers and names, other defaults."""

from __future__ import annotations

from dataclasses import replace

from ggquant.architectures import beyond_gguf, llama

FAMILY = replace(
    llama.FAMILY,
    architectures=("MistralForCausalLM",),
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
    },
    renames=(),
    beyond_gguf=(*beyond_gguf.COMMON, beyond_gguf.all_windows),
)

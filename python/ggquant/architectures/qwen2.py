"""Qwen2 and Qwen2.5: Llama's names, biases on q, k and v, rows of q and k as they are."""

from __future__ import annotations

from ggquant.architectures import beyond_gguf, rope
from ggquant.architectures.decoder import (
    DIMS,
    EMBEDDINGS,
    FEED_FORWARD,
    NORMS,
    UNUSED,
    attention,
    fill_kv_heads,
)
from ggquant.architectures.family import Family, Rename
from ggquant.architectures.keys import BASE, pooling

DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
}

FAMILY = Family(
    name="qwen2",
    architectures=("Qwen2ForCausalLM", "Qwen2Model"),
    rules=(*EMBEDDINGS, *NORMS, *attention(), *FEED_FORWARD),
    metadata=(*BASE, pooling),
    vocabulary=("sentencepiece", "bpe"),
    dims=DIMS,
    defaults=DEFAULTS,
    prepare=(fill_kv_heads, rope.standardize()),
    renames=(Rename("^", "model.", lambda c: c.architecture in ("Qwen2Model", "Qwen3Model")),),
    ignore=UNUSED,
    beyond_gguf=(*beyond_gguf.COMMON, beyond_gguf.windows),
)

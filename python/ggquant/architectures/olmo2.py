"""OLMo 2: norms after each half of a layer, and over the whole of q and k."""

from __future__ import annotations

from ggquant.architectures import beyond_gguf, rope
from ggquant.architectures.decoder import (
    BLOCK,
    DIMS,
    EMBEDDINGS,
    FEED_FORWARD,
    LAYER,
    UNUSED,
    attention,
    fill_kv_heads,
)
from ggquant.architectures.family import Family, module
from ggquant.architectures.graph import Graph, Half
from ggquant.architectures.keys import BASE

FAMILY = Family(
    name="olmo2",
    architectures=("Olmo2ForCausalLM",),
    rules=(
        *EMBEDDINGS,
        *attention(),
        *module(f"{LAYER}.self_attn.q_norm", f"{BLOCK}.attn_q_norm", shape="Q"),
        *module(f"{LAYER}.self_attn.k_norm", f"{BLOCK}.attn_k_norm", shape="K"),
        *module(f"{LAYER}.post_attention_layernorm", f"{BLOCK}.post_attention_norm", shape="E"),
        *module(f"{LAYER}.post_feedforward_layernorm", f"{BLOCK}.post_ffw_norm", shape="E"),
        *FEED_FORWARD,
    ),
    metadata=BASE,
    vocabulary=("bpe",),
    dims=DIMS,
    defaults={
        "vocab_size": 50304,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
    },
    prepare=(fill_kv_heads, rope.standardize()),
    ignore=UNUSED,
    graph=Graph(
        attention=Half(out_norm="post_attention_norm"),
        feed_forward=Half(out_norm="post_ffw_norm"),
        head_norm="whole",
    ),
    beyond_gguf=(*beyond_gguf.COMMON, beyond_gguf.windows),
)

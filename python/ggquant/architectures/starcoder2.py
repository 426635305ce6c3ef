"""StarCoder2: LayerNorm with biases everywhere, an ungated feed-forward."""

from __future__ import annotations

from ggquant.architectures import beyond_gguf, rope
from ggquant.architectures.decoder import BLOCK, DIMS, EMBEDDINGS, LAYER, NORMS, UNUSED, attention
from ggquant.architectures.family import Family, module
from ggquant.architectures.graph import Graph
from ggquant.architectures.keys import BASE

FAMILY = Family(
    name="starcoder2",
    architectures=("Starcoder2ForCausalLM",),
    rules=(
        *EMBEDDINGS,
        *NORMS,
        *attention(),
        *module(f"{LAYER}.mlp.c_fc", f"{BLOCK}.ffn_up", shape="F E"),
        *module(f"{LAYER}.mlp.c_proj", f"{BLOCK}.ffn_down", shape="E F"),
    ),
    metadata=BASE,
    vocabulary=("bpe",),
    dims=DIMS,
    defaults={
        "vocab_size": 49152,
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "num_hidden_layers": 30,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "norm_epsilon": 1e-5,
    },
    prepare=(rope.standardize(),),
    ignore=UNUSED,
    graph=Graph(norm="layer", activation="gelu_tanh"),
    beyond_gguf=(*beyond_gguf.COMMON, beyond_gguf.all_windows),
)

"""GPT-2: learned positions, weights stored input-first and turned round, q, k and v in one tensor."""

from __future__ import annotations

from ggquant.architectures import beyond_gguf
from ggquant.architectures.family import Family, Rename, module
from ggquant.architectures.graph import Graph
from ggquant.architectures.keys import file_type, key
from ggquant.architectures.steps import transpose

_TURN = transpose(0, 1)

FAMILY = Family(
    name="gpt2",
    architectures=("GPT2LMHeadModel",),
    rules=(
        *module("wte", "token_embd", shape="V E"),
        *module("wpe", "position_embd", shape="P E"),
        *module("ln_f", "output_norm", shape="E"),
        *module("lm_head", "output", shape="V E", required=False),
        *module("h.{bid}.ln_1", "blk.{bid}.attn_norm", shape="E"),
        *module("h.{bid}.attn.c_attn", "blk.{bid}.attn_qkv", _TURN, shape="E *", bias_steps=()),
        *module("h.{bid}.attn.c_proj", "blk.{bid}.attn_output", _TURN, shape="E E", bias_steps=()),
        *module("h.{bid}.ln_2", "blk.{bid}.ffn_norm", shape="E"),
        *module("h.{bid}.mlp.c_fc", "blk.{bid}.ffn_up", _TURN, shape="E *", bias_steps=()),
        *module("h.{bid}.mlp.c_proj", "blk.{bid}.ffn_down", _TURN, shape="* E", bias_steps=()),
    ),
    metadata=(
        key("block_count", "UINT32", "n_layer", required=True),
        key("context_length", "UINT32", "n_ctx", "n_positions", required=True),
        key("embedding_length", "UINT32", "n_embd", required=True),
        key("feed_forward_length", "UINT32", compute=lambda c: 4 * c.positive("n_embd")),
        key("attention.head_count", "UINT32", "n_head", required=True),
        key("attention.layer_norm_epsilon", "FLOAT32", "layer_norm_epsilon", required=True),
        file_type,
    ),
    vocabulary=("bpe",),
    dims={
        "E": lambda c: c.positive("n_embd"),
        "P": lambda c: c.positive("n_positions"),
        "V": lambda c: c.positive("vocab_size"),
    },
    defaults={
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "layer_norm_epsilon": 1e-5,
    },
    renames=(Rename(r"^transformer\.", ""),),
    ignore=(r"h\.\d+\.attn\.(masked_)?bias",),  # causal masks, not weights
    graph=Graph(norm="layer", rope="none", activation="gelu_tanh"),
    beyond_gguf=(beyond_gguf.activation("activation_function"),),
)

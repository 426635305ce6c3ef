"""Llama and models with its layers: q and k rows interleaved for ggml's RoPE, Llama 3's rope factors."""

from __future__ import annotations

from ggquant.architectures import rope
from ggquant.architectures.config import Config
from ggquant.architectures.family import Family, module
from ggquant.architectures.keys import BASE, key
from ggquant.architectures.steps import interleave_rope

DIMS = {
    "E": lambda c: c.positive("hidden_size"),
    "F": lambda c: c.positive("intermediate_size"),
    "V": lambda c: c.positive("vocab_size"),
    "Q": lambda c: c.positive("num_attention_heads") * c.head_dim,
    "K": lambda c: c.positive("num_key_value_heads") * c.head_dim,
}

EMBEDDINGS = (
    *module("model.embed_tokens", "token_embd", shape="V E"),
    *module("model.norm", "output_norm", shape="E"),
    *module("lm_head", "output", shape="V E", required=False),
)

NORMS = (
    *module("model.layers.{bid}.input_layernorm", "blk.{bid}.attn_norm", shape="E"),
    *module("model.layers.{bid}.post_attention_layernorm", "blk.{bid}.ffn_norm", shape="E"),
)

ATTENTION = (
    *module(
        "model.layers.{bid}.self_attn.q_proj",
        "blk.{bid}.attn_q",
        interleave_rope("num_attention_heads"),
        shape="Q E",
    ),
    *module(
        "model.layers.{bid}.self_attn.k_proj",
        "blk.{bid}.attn_k",
        interleave_rope("num_key_value_heads"),
        shape="K E",
    ),
    *module("model.layers.{bid}.self_attn.v_proj", "blk.{bid}.attn_v", shape="K E"),
    *module("model.layers.{bid}.self_attn.o_proj", "blk.{bid}.attn_output", shape="E Q"),
)

FEED_FORWARD = (
    *module("model.layers.{bid}.mlp.gate_proj", "blk.{bid}.ffn_gate", shape="F E"),
    *module("model.layers.{bid}.mlp.up_proj", "blk.{bid}.ffn_up", shape="F E"),
    *module("model.layers.{bid}.mlp.down_proj", "blk.{bid}.ffn_down", shape="E F"),
)

UNUSED = (r".*\.rotary_emb\.inv_freq", r".*\.attention\.(masked_)?bias")


def fill_heads(config: Config) -> None:
    """As transformers: as many key-value heads as heads, and the hidden size shared by the heads."""
    values = config.values
    if values.get("num_key_value_heads") is None:
        values["num_key_value_heads"] = config.positive("num_attention_heads")
    if values.get("head_dim") is None:
        values["head_dim"] = config.head_dim


FAMILY = Family(
    name="llama",
    architectures=("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"),
    rules=(*EMBEDDINGS, *NORMS, *ATTENTION, *FEED_FORWARD),
    metadata=(
        *BASE,
        key("vocab_size", "UINT32", "vocab_size", required=True),
        key("rope.dimension_count", "UINT32", compute=lambda c: c.head_dim),
    ),
    vocabulary=("sentencepiece", "bpe_fallback", "bpe"),
    dims=DIMS,
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
    },
    prepare=(fill_heads, rope.standardize()),
    extra_tensors=(rope.llama3_factors,),
    renames=((r"^(?!model\.|lm_head)", "model."),),
    ignore=UNUSED,
)

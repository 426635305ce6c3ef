"""The names and sizes that most decoder-only checkpoints share; families take what fits them."""

from __future__ import annotations

from ggquant.architectures.config import Config
from ggquant.architectures.family import Rule, Step, module

LAYER = "model.layers.{bid}"
BLOCK = "blk.{bid}"

DIMS = {
    "E": lambda c: c.positive("hidden_size"),
    "F": lambda c: c.positive("intermediate_size"),
    "M": lambda c: c.positive("moe_intermediate_size"),
    "X": lambda c: c.positive("num_local_experts", "num_experts"),
    "V": lambda c: c.positive("vocab_size"),
    "H": lambda c: c.head_dim,
    "Q": lambda c: c.positive("num_attention_heads") * c.head_dim,
    "K": lambda c: c.positive("num_key_value_heads") * c.head_dim,
}

EMBEDDINGS = (
    *module("model.embed_tokens", "token_embd", shape="V E"),
    *module("model.norm", "output_norm", shape="E"),
    *module("lm_head", "output", shape="V E", required=False),
)

NORMS = (
    *module(f"{LAYER}.input_layernorm", f"{BLOCK}.attn_norm", shape="E"),
    *module(f"{LAYER}.post_attention_layernorm", f"{BLOCK}.ffn_norm", shape="E"),
)

QK_NORMS = (
    *module(f"{LAYER}.self_attn.q_norm", f"{BLOCK}.attn_q_norm", shape="H"),
    *module(f"{LAYER}.self_attn.k_norm", f"{BLOCK}.attn_k_norm", shape="H"),
)

FEED_FORWARD = (
    *module(f"{LAYER}.mlp.gate_proj", f"{BLOCK}.ffn_gate", shape="F E"),
    *module(f"{LAYER}.mlp.up_proj", f"{BLOCK}.ffn_up", shape="F E"),
    *module(f"{LAYER}.mlp.down_proj", f"{BLOCK}.ffn_down", shape="E F"),
)

UNUSED = (r".*\.rotary_emb\.inv_freq", r".*\.attention\.(masked_)?bias")


def attention(q: tuple[Step, ...] = (), k: tuple[Step, ...] = ()) -> tuple[Rule, ...]:
    """The four projections of self-attention, with steps for the rows of q and k."""
    return (
        *module(f"{LAYER}.self_attn.q_proj", f"{BLOCK}.attn_q", *q, shape="Q E"),
        *module(f"{LAYER}.self_attn.k_proj", f"{BLOCK}.attn_k", *k, shape="K E"),
        *module(f"{LAYER}.self_attn.v_proj", f"{BLOCK}.attn_v", shape="K E"),
        *module(f"{LAYER}.self_attn.o_proj", f"{BLOCK}.attn_output", shape="E Q"),
    )


def fill_kv_heads(config: Config) -> None:
    """Where it is not said, there are as many key-value heads as heads."""
    if config.values.get("num_key_value_heads") is None:
        config.values["num_key_value_heads"] = config.positive("num_attention_heads")


def fill_head_dim(config: Config) -> None:
    """Where it is not said, the heads share the hidden size evenly."""
    if config.values.get("head_dim") is None:
        config.values["head_dim"] = config.head_dim

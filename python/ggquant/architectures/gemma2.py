"""Gemma 2: norms before and after each half of a layer, stored as distances from one; soft-capped logits."""

from __future__ import annotations

from ggquant.architectures import beyond_gguf, rope
from ggquant.architectures.decoder import BLOCK, DIMS, FEED_FORWARD, LAYER, UNUSED, attention
from ggquant.architectures.family import Family, Rule, module
from ggquant.architectures.graph import Graph, Half
from ggquant.architectures.keys import file_type, key
from ggquant.architectures.steps import add


def norm(source: str, target: str, shape: str = "E") -> tuple[Rule, ...]:
    """A norm whose weight is stored as its distance from one."""
    return module(source, target, add(1.0), shape=shape)


NORMS = (
    *norm(f"{LAYER}.input_layernorm", f"{BLOCK}.attn_norm"),
    *norm(f"{LAYER}.post_attention_layernorm", f"{BLOCK}.post_attention_norm"),
    *norm(f"{LAYER}.pre_feedforward_layernorm", f"{BLOCK}.ffn_norm"),
    *norm(f"{LAYER}.post_feedforward_layernorm", f"{BLOCK}.post_ffw_norm"),
)

FAMILY = Family(
    name="gemma2",
    architectures=("Gemma2ForCausalLM",),
    rules=(
        *module("model.embed_tokens", "token_embd", shape="V E"),
        *norm("model.norm", "output_norm"),
        *NORMS,
        *attention(),
        *FEED_FORWARD,
    ),
    metadata=(
        key("context_length", "UINT32", "max_position_embeddings", required=True),
        key("embedding_length", "UINT32", "hidden_size", required=True),
        key("block_count", "UINT32", "num_hidden_layers", required=True),
        key("feed_forward_length", "UINT32", "intermediate_size", required=True),
        key("attention.head_count", "UINT32", "num_attention_heads", required=True),
        key("attention.head_count_kv", "UINT32", "num_key_value_heads", required=True),
        key("attention.layer_norm_rms_epsilon", "FLOAT32", "rms_norm_eps", required=True),
        key("attention.key_length", "UINT32", "head_dim", required=True),
        key("attention.value_length", "UINT32", "head_dim", required=True),
        file_type,
        key("attn_logit_softcapping", "FLOAT32", "attn_logit_softcapping", required=True),
        key("final_logit_softcapping", "FLOAT32", "final_logit_softcapping", required=True),
        key("attention.sliding_window", "UINT32", "sliding_window", required=True),
    ),
    vocabulary=("sentencepiece",),
    tokenizer_extra=(key("/tokenizer.ggml.add_space_prefix", "BOOL", compute=lambda c: False),),
    dims=DIMS,
    defaults={
        "vocab_size": 256000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
    },
    prepare=(rope.standardize(),),
    ignore=(*UNUSED, r"lm_head\.weight"),  # the head is the embedding; some tools store it again
    graph=Graph(
        attention=Half("attn_norm", out_norm="post_attention_norm"),
        feed_forward=Half("ffn_norm", out_norm="post_ffw_norm"),
        activation="gelu_tanh",
        full_every=2,
        scale_embedding=True,
        deep_scale_layers=46,
    ),
    beyond_gguf=(
        beyond_gguf.activation("hidden_activation"),
        beyond_gguf.windows,
        beyond_gguf.query_scale(256.0),
    ),
)

"""Gemma 3: Gemma 2's layers with norms on each head of q and k, and two RoPE bases by kind of layer."""

from __future__ import annotations

from ggquant.architectures import beyond_gguf, rope
from ggquant.architectures.config import Config
from ggquant.architectures.decoder import BLOCK, DIMS, FEED_FORWARD, LAYER, UNUSED, attention
from ggquant.architectures.family import Family, module
from ggquant.architectures.gemma2 import NORMS, norm
from ggquant.architectures.graph import Graph, Half
from ggquant.architectures.keys import BASE, full_attention_rope, key
from ggquant.architectures.lazy import LazyTensor


def _known_tokens(tensor: LazyTensor, config: Config) -> LazyTensor:
    """Drops embedding rows beyond the tokens that exist."""
    if (config.folder / "tokenizer.model").is_file():
        return tensor.slice(0, 0, config.positive("vocab_size"))
    return tensor.slice(0, 0, len(config.files.model_vocab) + len(config.files.added_entries))


def _sliding_window(config: Config) -> object:
    values = config.values
    return None if values.get("sliding_window_pattern") == 1 else values.get("sliding_window")


def _space_prefix(config: Config) -> bool | None:
    return False if (config.folder / "tokenizer.model").is_file() else None


FAMILY = Family(
    name="gemma3",
    architectures=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    rules=(
        *module("model.embed_tokens", "token_embd", _known_tokens, shape="* E"),
        *norm("model.norm", "output_norm"),
        *module("lm_head", "output", shape="* E", required=False),
        *NORMS,
        *attention(),
        *norm(f"{LAYER}.self_attn.q_norm", f"{BLOCK}.attn_q_norm", "H"),
        *norm(f"{LAYER}.self_attn.k_norm", f"{BLOCK}.attn_k_norm", "H"),
        *FEED_FORWARD,
    ),
    metadata=(
        *BASE,
        key("rope.freq_base", "FLOAT32", compute=lambda c: full_attention_rope(c).get("rope_theta", 1e6)),
        key("final_logit_softcapping", "FLOAT32", "final_logit_softcapping", skip_falsy=True),
        key("attention.sliding_window", "UINT32", compute=_sliding_window),
    ),
    vocabulary=("sentencepiece", "bpe"),
    tokenizer_extra=(key("/tokenizer.ggml.add_space_prefix", "BOOL", compute=_space_prefix),),
    dims=DIMS,
    defaults={
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "sliding_window": 4096,
    },
    prepare=(rope.split_by_layer_kind(1_000_000.0, 10_000.0),),
    ignore=UNUSED,
    graph=Graph(
        attention=Half("attn_norm", out_norm="post_attention_norm"),
        feed_forward=Half("ffn_norm", out_norm="post_ffw_norm"),
        activation="gelu_tanh",
        full_every=6,
        sliding_rope=True,
        scale_embedding=True,
        deep_scale_layers=62,
    ),
    beyond_gguf=(
        beyond_gguf.activation("hidden_activation"),
        beyond_gguf.windows,
        beyond_gguf.query_scale(256.0),
    ),
)

"""Llama: q and k rows interleaved for ggml's RoPE, Llama 3's rope factors."""

from __future__ import annotations

from collections.abc import Iterable

from ggquant.architectures import beyond_gguf, rope
from ggquant.architectures.config import Config
from ggquant.architectures.decoder import (
    DIMS,
    EMBEDDINGS,
    FEED_FORWARD,
    NORMS,
    UNUSED,
    attention,
    fill_head_dim,
    fill_kv_heads,
)
from ggquant.architectures.family import Family, Rename
from ggquant.architectures.graph import Graph
from ggquant.architectures.keys import BASE, key
from ggquant.architectures.steps import interleave_rope
from ggquant.metadata import MetaValue

ATTENTION = attention((interleave_rope("num_attention_heads"),), (interleave_rope("num_key_value_heads"),))

METADATA = (
    *BASE,
    key("vocab_size", "UINT32", "vocab_size", required=True),
    key("rope.dimension_count", "UINT32", compute=lambda c: c.head_dim),
)


def _add_prefix_space(config: Config) -> object:
    return config.files.config.get("add_prefix_space")


VOCABULARY = ("sentencepiece", "bpe_fallback", "bpe")

SPACE_PREFIX = (key("/tokenizer.ggml.add_space_prefix", "BOOL", compute=_add_prefix_space),)


def vocabulary_quirks(config: Config) -> Iterable[tuple[str, MetaValue]]:
    """Two vocabularies known by their size: Code Llama's end of infilling, Granite's missing start."""
    size = config.values.get("vocab_size")
    if size == 32016:
        yield "/tokenizer.ggml.eot_token_id", MetaValue("UINT32", 32010)
    if size == 49152:
        yield "/tokenizer.ggml.add_bos_token", MetaValue("BOOL", False)


FAMILY = Family(
    name="llama",
    architectures=("LlamaForCausalLM", "LLaMAForCausalLM", "LlamaModel"),
    rules=(*EMBEDDINGS, *NORMS, *ATTENTION, *FEED_FORWARD),
    metadata=METADATA,
    vocabulary=VOCABULARY,
    tokenizer_first=SPACE_PREFIX,
    tokenizer_extra=(vocabulary_quirks,),
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
    prepare=(fill_kv_heads, fill_head_dim, rope.standardize()),
    extra_tensors=(rope.llama3_factors,),
    renames=(Rename("^", "model.", lambda c: c.architecture == "LlamaModel"),),
    ignore=UNUSED,
    graph=Graph(rope="neighbours"),
    beyond_gguf=beyond_gguf.COMMON,
)

"""Granite 3: Llama's layers with four constant multipliers, and no head width of its own."""

from __future__ import annotations

from dataclasses import replace

from ggquant.architectures import llama, rope
from ggquant.architectures.config import Config
from ggquant.architectures.decoder import fill_kv_heads
from ggquant.architectures.keys import key


def _drop_head_dim(config: Config) -> None:
    config.values.pop("head_dim", None)


FAMILY = replace(
    llama.FAMILY,
    name="granite",
    architectures=("GraniteForCausalLM",),
    metadata=(
        *llama.METADATA,
        key("attention.scale", "FLOAT32", "attention_multiplier", skip_falsy=True),
        key("embedding_scale", "FLOAT32", "embedding_multiplier", skip_falsy=True),
        key("residual_scale", "FLOAT32", "residual_multiplier", skip_falsy=True),
        key("logit_scale", "FLOAT32", "logits_scaling", skip_falsy=True),
    ),
    defaults={
        **llama.FAMILY.defaults,
        "attention_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
    },
    prepare=(_drop_head_dim, fill_kv_heads, rope.standardize()),
    renames=(),
)

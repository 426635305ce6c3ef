"""Qwen3: Qwen2 without biases, with norms on each head of q and k."""

from __future__ import annotations

from dataclasses import replace

from ggquant.architectures import qwen2
from ggquant.architectures.config import Config
from ggquant.architectures.decoder import QK_NORMS
from ggquant.errors import UnsupportedError


def _refuse_reranker(config: Config) -> None:
    """Rerankers keep two rows of the head only, which is another conversion."""
    name = f"{config.folder.absolute().name} {config.values.get('_name_or_path', '')}".lower()
    if "qwen3-reranker" in name:
        raise UnsupportedError(f"{config.path}: Qwen3 rerankers are not supported", file=str(config.path))


FAMILY = replace(
    qwen2.FAMILY,
    name="qwen3",
    architectures=("Qwen3ForCausalLM", "Qwen3Model"),
    rules=(*qwen2.FAMILY.rules, *QK_NORMS),
    defaults={**qwen2.DEFAULTS, "head_dim": 128},
    prepare=(_refuse_reranker, *qwen2.FAMILY.prepare),
)

"""XLM-RoBERTa: BERT with a Unigram vocabulary and positions that begin after the padding token's."""

from __future__ import annotations

from dataclasses import replace

from ggquant.architectures.bert import FAMILY as BERT
from ggquant.architectures.config import Config
from ggquant.architectures.family import Rename, module
from ggquant.architectures.lazy import LazyTensor


def _offset(config: Config) -> int:
    """Positions that no token ever has."""
    padding = config.values.get("pad_token_id")
    if padding is None:
        return 0
    if type(padding) is not int or not 0 <= padding < config.positive("stored_positions"):
        raise config.wrong("pad_token_id", "a token")
    return padding + 1


def _fewer_positions(config: Config) -> None:
    config.values["stored_positions"] = config.positive("max_position_embeddings")
    config.values["max_position_embeddings"] -= _offset(config)


def _used_positions(tensor: LazyTensor, config: Config) -> LazyTensor:
    return tensor.slice(0, _offset(config))


_POSITIONS = "embeddings.position_embeddings.weight"

FAMILY = replace(
    BERT,
    architectures=("XLMRobertaModel", "XLMRobertaForSequenceClassification"),
    rules=(
        *(rule for rule in BERT.rules if not rule.sources[0].startswith("embeddings.position_embeddings.")),
        *(
            rule
            for rule in module("embeddings.position_embeddings", "position_embd", _used_positions, shape="S E")
            if rule.sources[0] == _POSITIONS
        ),
    ),
    vocabulary=("unigram",),
    dims={**BERT.dims, "S": lambda c: c.positive("stored_positions")},
    defaults={**BERT.defaults, "vocab_size": 30522, "pad_token_id": 1, "type_vocab_size": 2},
    prepare=(*BERT.prepare, _fewer_positions),
    renames=(Rename(r"^roberta\.", ""), *BERT.renames),
)

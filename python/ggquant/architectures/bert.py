"""BERT: an encoder for embeddings; its pooler and pre-training heads are left behind."""

from __future__ import annotations

from ggquant.architectures import beyond_gguf
from ggquant.architectures.config import Config
from ggquant.architectures.family import Family, Rename, module
from ggquant.architectures.graph import Graph, Half
from ggquant.architectures.keys import BASE, key, pooling

_LAYER = "encoder.layer.{bid}"
_BLOCK = "blk.{bid}"


def _labels(config: Config) -> list[str] | None:
    """Names of a classifier's classes in the order of their ids; none where they are only placeholders."""
    names = config.values.get("id2label")
    if not isinstance(names, dict) or not names:
        return None
    if not all(str(k).isdecimal() and isinstance(v, str) for k, v in names.items()):
        raise config.wrong("id2label", "an object of class numbers and names")
    ordered = {int(k): v for k, v in names.items()}
    if len(ordered) == 2 and ordered.get(0) == "LABEL_0":
        return None
    return [ordered[index] for index in sorted(ordered)]


FAMILY = Family(
    name="bert",
    architectures=("BertModel", "BertForMaskedLM", "BertForSequenceClassification"),
    rules=(
        *module("embeddings.word_embeddings", "token_embd", shape="V E"),
        *module("embeddings.position_embeddings", "position_embd", shape="P E"),
        *module("embeddings.token_type_embeddings", "token_types", shape="T E"),
        *module("embeddings.LayerNorm", "token_embd_norm", shape="E"),
        *module(f"{_LAYER}.attention.self.query", f"{_BLOCK}.attn_q", shape="E E"),
        *module(f"{_LAYER}.attention.self.key", f"{_BLOCK}.attn_k", shape="E E"),
        *module(f"{_LAYER}.attention.self.value", f"{_BLOCK}.attn_v", shape="E E"),
        *module(f"{_LAYER}.attention.output.dense", f"{_BLOCK}.attn_output", shape="E E"),
        *module(f"{_LAYER}.attention.output.LayerNorm", f"{_BLOCK}.attn_output_norm", shape="E"),
        *module(f"{_LAYER}.intermediate.dense", f"{_BLOCK}.ffn_up", shape="F E"),
        *module(f"{_LAYER}.output.dense", f"{_BLOCK}.ffn_down", shape="E F"),
        *module(f"{_LAYER}.output.LayerNorm", f"{_BLOCK}.layer_output_norm", shape="E"),
        *module("classifier", "cls", shape="* E", required=False),
        *module("classifier.out_proj", "cls.output", shape="* E", required=False),
    ),
    metadata=(
        *BASE,
        key("attention.causal", "BOOL", compute=lambda c: False),
        pooling,
        key("classifier.output_labels", "STRING", compute=_labels),
    ),
    vocabulary=("wordpiece",),
    dims={
        "E": lambda c: c.positive("hidden_size"),
        "F": lambda c: c.positive("intermediate_size"),
        "V": lambda c: c.positive("vocab_size"),
        "P": lambda c: c.positive("max_position_embeddings"),
        "T": lambda c: c.positive("type_vocab_size"),
    },
    defaults={
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    },
    renames=(
        Rename(r"^bert\.", ""),
        Rename(r"\.gamma$", ".weight"),
        Rename(r"\.beta$", ".bias"),
        Rename(r"^classifier\.(weight|bias)$", r"classifier.out_proj.\1", lambda c: _labels(c) is not None),
    ),
    ignore=(r"embeddings\.position_ids", r"pooler\.dense\..*", r"cls\.(predictions|seq_relationship).*"),
    graph=Graph(
        attention=Half(sum_norm="attn_output_norm"),
        feed_forward=Half(sum_norm="layer_output_norm"),
        norm="layer",
        rope="none",
        activation="gelu",
        causal=False,
    ),
    beyond_gguf=(beyond_gguf.activation("hidden_act"),),
)

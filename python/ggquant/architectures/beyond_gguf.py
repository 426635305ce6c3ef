"""Facts of a configuration that GGUF has no key for, or llama.cpp takes for granted.

They are written as metadata is, but only the forward pass reads them, and only where the model comes from a checkpoint.
A GGUF file runs as llama.cpp runs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ggquant.architectures.config import Config
from ggquant.architectures.family import Entry
from ggquant.architectures.keys import full_attention_rope, key
from ggquant.errors import UnsupportedError
from ggquant.metadata import MetaValue

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def activation(*names: str) -> Entry:
    """The feed-forward network's activation.

    Args:
        names: hyperparameters that may hold it, the first one present counts.
    """

    def entry(config: Config) -> Iterable[tuple[str, MetaValue]]:
        name = config.first(*names)
        if name is None:
            return
        if name not in _ACTIVATIONS:
            raise UnsupportedError(f"{config.path}: no activation is called {name!r}", file=str(config.path))
        yield "activation", MetaValue("STRING", _ACTIVATIONS[name])

    return entry


def windows(config: Config) -> Iterable[tuple[str, MetaValue]]:
    """Which layers see only a window of tokens."""
    values = config.values
    width = values.get("sliding_window")
    if values.get("use_sliding_window") is False:
        width = None
    layers = config.positive("num_hidden_layers", "n_layer")
    kinds = values.get("layer_types")
    if width is None:
        slides = [False] * layers
    elif isinstance(kinds, list) and len(kinds) == layers:
        slides = [kind == "sliding_attention" for kind in kinds]
    elif values.get("use_sliding_window") and type(values.get("max_window_layers")) is int:
        slides = [layer >= values["max_window_layers"] for layer in range(layers)]
    elif type(period := values.get("sliding_window_pattern")) is int and period > 0:
        slides = [(layer + 1) % period != 0 for layer in range(layers)]
    else:
        return
    if width is not None:
        yield "attention.sliding_window", MetaValue("UINT32", config.positive("sliding_window"))
    yield "attention.sliding_window_pattern", MetaValue("ARRAY", slides, "BOOL")


def all_windows(config: Config) -> Iterable[tuple[str, MetaValue]]:
    """As `windows`, for families in which every layer has the window if one is given."""
    width = config.values.get("sliding_window")
    if config.values.get("layer_types") is None and width is not None:
        layers = config.positive("num_hidden_layers")
        yield "attention.sliding_window", MetaValue("UINT32", config.positive("sliding_window"))
        yield "attention.sliding_window_pattern", MetaValue("ARRAY", [True] * layers, "BOOL")
        return
    yield from windows(config)


def query_scale(default: float) -> Entry:
    """The attention scale from `query_pre_attn_scalar`."""

    def scale(config: Config) -> float:
        value = config.values.get("query_pre_attn_scalar", default)
        if not isinstance(value, int | float) or value <= 0:
            raise config.wrong("query_pre_attn_scalar", "a positive number")
        return 1 / math.sqrt(value)

    return key("attention.scale", "FLOAT32", compute=scale)


def yarn_truncates(config: Config) -> Iterable[tuple[str, MetaValue]]:
    """Whether YaRN's range of frequencies is rounded to whole ones."""
    if full_attention_rope(config).get("truncate") is False:
        yield "rope.scaling.yarn_truncate", MetaValue("BOOL", False)


def router_normalizes(default: bool) -> Entry:
    """Whether the chosen experts' weights are made to sum to 1."""
    return key("expert_weights_norm", "BOOL", "norm_topk_prob", default=default)


COMMON: tuple[Entry, ...] = (activation("hidden_act"), yarn_truncates)

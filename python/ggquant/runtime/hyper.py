"""A model's sizes and constants, from its metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ggquant.architectures.graph import Graph
from ggquant.errors import MalformedFileError
from ggquant.metadata import MetaValue


class Hyper:
    """Typed look-ups in metadata, keys without the architecture's prefix."""

    def __init__(self, arch: str, metadata: Mapping[str, MetaValue], graph: Graph, source: str) -> None:
        self.arch = arch
        self.graph = graph
        self.source = source
        self._metadata = metadata
        self.n_layer = self.size("block_count")
        self.hidden_size = self.size("embedding_length")

    def get(self, key: str, default: Any = None) -> Any:
        """The value under `<arch>.<key>`, or `default`."""
        entry = self._metadata.get(f"{self.arch}.{key}")
        return default if entry is None else entry.value

    def size(self, key: str, default: int | None = None, layer: int | None = None) -> int:
        """A positive whole number; where it is a list, that of `layer`."""
        value = self.get(key, default)
        if isinstance(value, Sequence) and not isinstance(value, str) and layer is not None and layer < len(value):
            value = value[layer]
        if type(value) is not int or not 0 < value < 1 << 31:
            raise self._wrong(key, value, "a positive number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.get(key, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self._wrong(key, value, "a number")
        return float(value)

    def optional(self, key: str) -> float | None:
        """A number that is absent or zero where it does not apply."""
        value = self.number(key, 0.0)
        return value or None

    @property
    def eps(self) -> float:
        """What norms add to the variance."""
        return self.number("attention.layer_norm_epsilon" if self.graph.norm == "layer" else _RMS_EPS)

    def heads(self, layer: int) -> int:
        """Heads of the queries."""
        return self.size("attention.head_count", layer=layer)

    def kv_heads(self, layer: int) -> int:
        """Heads of keys and values."""
        return self.size("attention.head_count_kv", self.heads(layer), layer)

    def key_dim(self, layer: int) -> int:
        """Width of a head of queries and keys."""
        return self.size("attention.key_length", self.hidden_size // self.heads(layer))

    def value_dim(self, layer: int) -> int:
        """Width of a head of values."""
        return self.size("attention.value_length", self.hidden_size // self.heads(layer))

    def rotated(self, layer: int) -> int:
        """How many values of each head rotate."""
        return self.size("rope.dimension_count", self.key_dim(layer))

    def slides(self, layer: int) -> bool:
        """Whether a layer sees only a window."""
        if not self.get("attention.sliding_window"):
            return False
        pattern = self.get("attention.sliding_window_pattern", self.graph.full_every)
        if isinstance(pattern, Sequence) and not isinstance(pattern, str):
            return layer < len(pattern) and bool(pattern[layer])
        return type(pattern) is int and pattern > 0 and (layer + 1) % pattern != 0

    def window(self, layer: int) -> int | None:
        """How many tokens back a layer sees, itself included; None for all."""
        return self.size("attention.sliding_window") if self.slides(layer) else None

    def attention_scale(self, layer: int) -> float:
        """Factor of the scores."""
        given = self.optional("attention.scale")
        if given is not None:
            return given
        deep = self.graph.deep_scale_layers
        width = self.hidden_size // self.heads(layer) if deep and self.n_layer == deep else self.key_dim(layer)
        return 1.0 / math.sqrt(width)

    def _wrong(self, key: str, value: Any, wanted: str) -> MalformedFileError:
        found = "is missing" if value is None else f"is {value!r}"
        return MalformedFileError(f"{self.source}: {self.arch}.{key} {found}; need {wanted}", file=self.source)


_RMS_EPS = "attention.layer_norm_rms_epsilon"

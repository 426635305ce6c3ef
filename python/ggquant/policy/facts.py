"""What a model's metadata says that its variant depends on: layers, heads, experts, and the few named
exceptions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .tensors import layer_of

__all__ = ["LAYERS_OF_70B", "ModelFacts"]

LAYERS_OF_70B: dict[str, int] = {
    "llama": 80,
    "llama-embed": 80,
    "qwen2": 80,
    "deci": 80,
    "olmo": 80,
    "jais2": 68,
}
"""Architectures that have a "70B" size, and the number of layers that makes a model one. The size matters
because attn_v is then small beside the rest and gets more bits. llama additionally asks for grouped
key/value heads (65B has 80 layers too) and for a number of experts other than 8."""

_NEEDS_GROUPED_HEADS = frozenset({"llama", "llama-embed"})


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The hyperparameters that decisions depend on.

    `n_layer` counts every block, those for multi-token prediction included (`n_layer_nextn` of them);
    `n_head` and `n_head_kv` have one entry per layer or are empty where the metadata says nothing.
    """

    arch: str
    n_layer: int = 0
    n_head: tuple[int, ...] = ()
    n_head_kv: tuple[int, ...] = ()
    n_expert: int = 0
    n_layer_nextn: int = 0

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, object], tensor_names: Iterable[str] = (), *, arch: str | None = None
    ) -> ModelFacts:
        """Reads the facts from GGUF metadata: `{key: value}`, where a value may also be an object with a
        `.value`.

        `tensor_names` are consulted only where the metadata does not give the number of layers.
        """
        values = {key: getattr(v, "value", v) for key, v in metadata.items()}
        name = arch if arch is not None else values.get("general.architecture", "")
        if not isinstance(name, str):
            name = str(name)

        def number(key: str) -> int | None:
            v = values.get(f"{name}.{key}")
            return v if isinstance(v, int) and not isinstance(v, bool) and v >= 0 else None

        stated = number("block_count")
        if stated is not None:
            n_layer = stated
        else:
            n_layer = 0 if name == "clip" else 1 + max((layer_of(n) for n in tensor_names), default=-1)
        nextn = min(number("nextn_predict_layers") or 0, n_layer)

        def per_layer(key: str) -> tuple[int, ...]:
            v = values.get(f"{name}.{key}")
            if isinstance(v, int) and not isinstance(v, bool):
                return (v,) * n_layer
            if isinstance(v, Iterable) and not isinstance(v, str | bytes):
                return tuple(int(x) for x in v)
            return ()

        heads = per_layer("attention.head_count")
        kv_heads = per_layer("attention.head_count_kv") or heads
        loops = number("num_loops") or 1
        # A looped model repeats its blocks; a switch model keeps its router in a block of its own, at the
        # end.
        if name == "nanbeige" and loops > 1:
            n_layer = (n_layer - nextn) * loops
        elif name == "graniteswitch":
            n_layer = n_layer - nextn + 1
            nextn = 1
        return cls(name, n_layer, heads, kv_heads, number("expert_count") or 0, nextn)

    @property
    def gqa(self) -> int:
        """Query heads per key/value head in the first layer; 0 without key/value heads there."""
        if not self.n_head or not self.n_head_kv or self.n_head_kv[0] <= 0:
            return 0
        return self.n_head[0] // self.n_head_kv[0]

    @property
    def is_70b(self) -> bool:
        """Whether this is a model of the size that `LAYERS_OF_70B` lists."""
        if LAYERS_OF_70B.get(self.arch) != self.n_layer - self.n_layer_nextn:
            return False
        if self.arch not in _NEEDS_GROUPED_HEADS:
            return True
        return self.n_expert != 8 and self.n_head[:1] != self.n_head_kv[:1]

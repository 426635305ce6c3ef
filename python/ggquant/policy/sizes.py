"""Sizes before any work: of the file that each variant would give, and of the cache that running it needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from ..overrides import Options
from ..tensor_types import format_facts, tensor_bytes
from .facts import ModelFacts
from .policy import Decision, PolicyError, TensorHeader, choose
from .refuse import Obstacle, refusals
from .table import VARIANTS

__all__ = ["ALIGNMENT", "CacheFacts", "VariantSize", "file_bytes", "kv_cache_bytes", "sizes"]

ALIGNMENT = 32
"""Tensor data starts at multiples of this many bytes, unless `general.alignment` says otherwise."""

_FIXED_HEADER = 24  # magic, version, and the counts of tensors and of metadata entries


@dataclass(frozen=True, slots=True)
class VariantSize:
    """What a variant makes of a model.

    `data_bytes` are those of the weights alone, on which `bits_per_weight` is based; `file_bytes` adds
    header and padding. `weights` counts weights by format. `problem` says why the variant cannot be made of
    this model (sizes are 0 then); `needs_imatrix` that it cannot be made without one.
    """

    variant: str
    data_bytes: int = 0
    file_bytes: int = 0
    bits_per_weight: float = 0.0
    weights: Mapping[str, int] = field(default_factory=dict)
    fallbacks: int = 0
    needs_imatrix: bool = False
    problem: str | None = None


def file_bytes(decisions: Iterable[Decision], *, metadata_bytes: int = 0, alignment: int = ALIGNMENT) -> int:
    """Bytes of the GGUF file that holds these tensors.

    `metadata_bytes` are those of the encoded metadata entries, which depend on the tokenizer more than on
    anything.
    """
    header, data = _FIXED_HEADER + metadata_bytes, 0
    for d in decisions:
        dims = max(1, len(d.shape))
        header += 8 + len(d.name.encode("utf-8", "surrogatepass")) + 4 + 8 * dims + 4 + 8
        data += _padded(tensor_bytes(d.shape, d.format), alignment)
    return _padded(header, alignment) + data


def _padded(n: int, alignment: int) -> int:
    return -(-n // alignment) * alignment


def sizes(
    tensors: Sequence[TensorHeader | tuple[str, tuple[int, ...], str]],
    facts: ModelFacts,
    *,
    variants: Iterable[str] = tuple(VARIANTS),
    imatrix: bool | Collection[str] = False,
    options: Options | None = None,
    metadata_bytes: int = 0,
) -> list[VariantSize]:
    """The size of the model in each of `variants`, from headers alone."""
    found: list[VariantSize] = []
    for name in variants:
        try:
            decisions = choose(facts, tensors, name, imatrix=imatrix, options=options)
            data = sum(tensor_bytes(d.shape, d.format) for d in decisions)
        except PolicyError as e:
            found.append(VariantSize(name, problem=str(e)))
            continue
        weights: dict[str, int] = {}
        for d in decisions:
            weights[d.format] = weights.get(d.format, 0) + prod(d.shape)
        total = sum(weights.values())
        found.append(
            VariantSize(
                name,
                data,
                file_bytes(decisions, metadata_bytes=metadata_bytes),
                data * 8 / total if total else 0.0,
                weights,
                sum(d.fallback is not None for d in decisions),
                any(r.kind is Obstacle.IMATRIX for r in refusals(decisions)),
            )
        )
    return found


_WINDOW_PERIOD: Mapping[str, tuple[int, bool]] = {
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gpt-oss": (2, False),
    "cohere2": (4, False),
    "llama4": (4, False),
    "olmo2": (4, False),
    "exaone4": (4, False),
    "smallthinker": (4, True),
}
"""Architectures whose layers alternate between a sliding window and the whole context: one layer in so many
sees the whole, the last of each group, or the first where the flag is set. Others say so in their
metadata."""


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """What the size of a key/value cache depends on, by layer.

    `keys` and `values` are elements per token (0 where a layer caches none, as in recurrent layers);
    `windows` is the sliding window in tokens, 0 for the whole context.
    """

    keys: tuple[int, ...]
    values: tuple[int, ...]
    windows: tuple[int, ...]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> CacheFacts:
        """Reads the facts from GGUF metadata, as `ModelFacts.from_metadata` does."""
        facts = ModelFacts.from_metadata(metadata)
        values = {key: getattr(v, "value", v) for key, v in metadata.items()}

        def number(key: str, default: int = 0) -> int:
            v = values.get(f"{facts.arch}.{key}")
            return v if isinstance(v, int) and not isinstance(v, bool) else default

        layers = facts.n_layer - facts.n_layer_nextn
        heads = facts.n_head[0] if facts.n_head else 0
        head_size = number("embedding_length") // heads if heads else 0
        key, value = number("attention.key_length", head_size), number("attention.value_length", head_size)
        window = number("attention.sliding_window")
        pattern = values.get(f"{facts.arch}.attention.sliding_window_pattern")
        period, whole_first = _WINDOW_PERIOD.get(facts.arch, (1, False))
        if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
            period = pattern

        def windowed(layer: int) -> bool:
            if isinstance(pattern, Sequence) and not isinstance(pattern, str | bytes):
                return layer < len(pattern) and bool(pattern[layer])
            return layer % period != (0 if whole_first else period - 1)

        windows = tuple(window if window and windowed(layer) else 0 for layer in range(layers))
        key_swa = number("attention.key_length_swa", key)
        value_swa = number("attention.value_length_swa", value)
        kv_heads = (*facts.n_head_kv, *([0] * layers))[:layers]
        interval = number("full_attention_interval")
        if interval > 1:  # hybrid models: the layers between are recurrent and cache no keys
            kv_heads = tuple(h if (i + 1) % interval == 0 else 0 for i, h in enumerate(kv_heads))
        # Latent attention caches one joint vector in place of keys and values.
        joint = number("attention.key_length_mla") > 0
        return cls(
            tuple(h * (key_swa if w else key) for h, w in zip(kv_heads, windows, strict=True)),
            tuple(0 if joint else h * (value_swa if w else value) for h, w in zip(kv_heads, windows, strict=True)),
            windows,
        )


def kv_cache_bytes(
    cache: CacheFacts, context: int, *, k_format: str = "F16", v_format: str = "F16", batch: int = 512
) -> int:
    """Bytes of llama.cpp's key/value cache for one sequence of up to `context` tokens.

    Layers with a window keep the window and the tokens of one physical batch, in steps of 256. What
    recurrent layers keep does not grow with the context and is left out.
    """
    k, v = format_facts(k_format), format_facts(v_format)
    total = 0.0
    for keys, values, window in zip(cache.keys, cache.values, cache.windows, strict=True):
        cells = min(context, _padded(window + batch, 256)) if window else context
        total += cells * (keys * k.bits_per_weight + values * v.bits_per_weight) / 8
    return int(total)

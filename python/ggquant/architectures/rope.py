"""Rotary position embeddings: one layout of their hyperparameters, and the factor tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from ggquant.architectures.config import Config
from ggquant.architectures.keys import full_attention_rope
from ggquant.model import SourceTensor

_LAYER_KINDS = ("full_attention", "sliding_attention")


def standardize(theta: float | None = 10_000.0) -> Callable[[Config], None]:
    """Brings `rope_scaling` + `rope_theta` (transformers 4) to `rope_parameters` (transformers 5).

    Args:
        theta: the family's base frequency where the config names none; None for families without RoPE.
    """

    def prepare(config: Config) -> None:
        values = config.values
        scaling = values.pop("rope_scaling", None)
        if theta is None and not scaling and "rope_parameters" not in values:
            return
        source = scaling or values.get("rope_parameters") or {}
        if not isinstance(source, dict):
            raise config.wrong("rope_parameters", "an object")
        base = values.pop("rope_theta", theta)
        fraction = values.pop("partial_rotary_factor", None)
        declared = values.get("layer_types") or ()
        nested = [name for name in source if name in declared and isinstance(source[name], dict)]
        rope: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in source.items()}
        for part in [rope[name] for name in nested] or [rope]:
            _complete(part, base, fraction, config)
        values["rope_parameters"] = rope

    return prepare


def _complete(rope: dict[str, Any], base: float | None, fraction: float | None, config: Config) -> None:
    rope.setdefault("rope_theta", base)
    if fraction is not None:
        rope.setdefault("partial_rotary_factor", fraction)
    rope.setdefault("rope_type", rope.get("type", "default"))
    if rope["rope_type"] in ("llama3", "yarn", "longrope"):
        own = config.values.get("original_max_position_embeddings")
        if own is not None:
            rope["original_max_position_embeddings"] = own
        rope.setdefault("original_max_position_embeddings", config.values.get("max_position_embeddings"))


def split_by_layer_kind(full_theta: float, sliding_theta: float) -> Callable[[Config], None]:
    """`rope_parameters` with one entry for full and one for sliding attention, as Gemma 3 has them."""

    def prepare(config: Config) -> None:
        values = config.values
        scaling = values.pop("rope_scaling", None) or {}
        given = config.table("rope_parameters")
        rope = {kind: dict(given.get(kind) or {}) for kind in _LAYER_KINDS}
        rope["full_attention"].update(scaling)
        rope["full_attention"].setdefault("rope_theta", values.pop("rope_theta", full_theta))
        rope["sliding_attention"].setdefault("rope_theta", values.pop("rope_local_base_freq", sliding_theta))
        for part in rope.values():
            _complete(part, None, None, config)
        values["rope_parameters"] = rope

    return prepare


def llama3_factors(config: Config) -> Iterable[SourceTensor]:
    """Llama 3's per-frequency divisors: none for short waves, `factor` for long ones, a ramp between.

    Computed in float32 step by step, in torch's order, because the bytes must agree.
    """
    rope = full_attention_rope(config)
    if str(rope.get("rope_type", "")).lower() != "llama3":
        return
    values = [
        rope.get(name, default)
        for name, default in (
            ("rope_theta", 10_000.0),
            ("factor", 8.0),
            ("low_freq_factor", 1.0),
            ("high_freq_factor", 4.0),
            ("original_max_position_embeddings", 8192),
        )
    ]
    if not all(isinstance(n, int | float) and n > 0 for n in values):
        raise config.wrong("rope_parameters", "positive numbers for the llama3 kind of scaling")
    import numpy as np

    from ggquant.architectures.powers import powers

    base, factor, low, high, trained = (float(n) for n in values)
    width = config.head_dim
    one, ramp = np.float32(1), np.float32(high - low)
    frequencies = one / powers(base, np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    factors = []
    for frequency in frequencies:
        wavelength = (one / frequency) * np.float32(2 * math.pi)
        if wavelength < np.float32(trained / high):
            factors.append(1.0)
        elif wavelength > np.float32(trained / low):
            factors.append(factor)
        else:
            smooth = ((one / wavelength) * np.float32(trained) - np.float32(low)) / ramp
            factors.append(one / ((one - smooth) / np.float32(factor) + smooth))
    data = np.array(factors, dtype="<f4")
    yield SourceTensor("rope_freqs.weight", data.shape, "F32", inline=data.tobytes())

"""Tables of angles for rotary position embedding, with the scalings that models use for long contexts."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ggquant.runtime.hyper import Hyper
from ggquant.runtime.ops import Floats


def original_context(hyper: Hyper) -> int:
    """Tokens of context that the model was trained on before its RoPE was scaled."""
    return hyper.size("rope.scaling.original_context_length", hyper.size("context_length", 1 << 30))


def tables(hyper: Hyper, layer: int, positions: int, factors: Floats | None) -> tuple[Floats, Floats]:
    """Cosines and sines `[positions, pairs]` for a layer.

    Angles are computed in float64. Linear scaling divides them; YaRN (Peng et al., 2023) divides only those of low
    frequency, with a ramp between, and both of its tables carry its attention factor.

    Args:
        hyper: the model.
        layer: number of the layer.
        positions: how many, from 0.
        factors: divisor of each frequency, from the model's own tensor.
    """
    rotated = hyper.rotated(layer)
    base, factor, kind = hyper.number("rope.freq_base", 10_000.0), 1.0, "none"
    if hyper.slides(layer) and hyper.graph.sliding_rope:
        base = hyper.number("rope.freq_base_swa", 10_000.0)
    else:
        kind = str(hyper.get("rope.scaling.type", "linear"))
        scale = hyper.number("rope.scaling.factor", hyper.number("rope.scale_linear", 0.0))
        factor = scale if scale > 0 and kind in ("linear", "yarn") else 1.0
    frequencies = base ** (-np.arange(0, rotated, 2, dtype=np.float64) / rotated)
    if factors is not None:
        frequencies /= factors[: len(frequencies)]
    amplitude = hyper.number("rope.scaling.attn_factor", 1.0)
    if kind == "yarn" and factor > 1:
        keep = _kept_share(hyper, rotated, base)
        frequencies = frequencies * keep + frequencies / factor * (1 - keep)
        amplitude *= hyper.number("rope.scaling.yarn_attn_factor", 1 + 0.1 * math.log(factor))
    else:
        frequencies /= factor
    angles = np.outer(np.arange(positions, dtype=np.float64), frequencies)
    return (np.cos(angles) * amplitude).astype(np.float32), (np.sin(angles) * amplitude).astype(np.float32)


def _kept_share(hyper: Hyper, rotated: int, base: float) -> npt.NDArray[np.float64]:
    """How much of each frequency YaRN leaves as it is: all of the fast ones, none of the slow ones."""
    trained = original_context(hyper)

    def pair(turns: float) -> float:
        return rotated * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = pair(hyper.number("rope.scaling.yarn_beta_fast", 32.0))
    high = pair(hyper.number("rope.scaling.yarn_beta_slow", 1.0))
    if hyper.get("rope.scaling.yarn_truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotated - 1)
    ramp = (np.arange(rotated // 2) - low) / max(high - low, 0.001)
    result: npt.NDArray[np.float64] = 1 - np.clip(ramp, 0, 1)
    return result

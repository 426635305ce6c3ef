"""Powers in float32, rounded as torch's vector code rounds them on x86."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

_LANES = 16
"""Elements that the vector loop takes at a time; the rest go through the C library, rounded correctly."""

_EXPONENTIAL = (
    0.00136324646882712841033936,
    0.00836596917361021041870117,
    0.0416710823774337768554688,
    0.166665524244308471679688,
    0.499999850988388061523438,
)
"""Coefficients of e^s = 1 + s + s^2 u(s), highest first, from the SLEEF library's float32 power function."""

_LOG2_E = np.float32(1.442695040888963407)
_LN2_HIGH, _LN2_LOW = np.float32(0.693145751953125), np.float32(1.428606765330187045e-06)


def powers(base: float, exponents: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """`base ** exponents` for a positive base; float32 in, float32 out.

    Float64 stands in for SLEEF's pairs of float32, whose errors are far below the last bit of the result.
    """
    f32, f64 = np.float32, np.float64
    exponents64 = exponents.astype(f64)
    product = math.log(f32(base)) * exponents64
    whole = np.rint(product.astype(f32) * _LOG2_E).astype(f64)
    rest = product - whole * f64(_LN2_HIGH) - (whole.astype(f32) * _LN2_LOW).astype(f64)
    rounded = rest.astype(f32).astype(f64)
    u: npt.NDArray[Any] = np.full(rest.shape, f32(_EXPONENTIAL[0]), f64)
    for coefficient in _EXPONENTIAL[1:]:
        u = (u * rounded + f64(f32(coefficient))).astype(f32).astype(f64)  # fused: one rounding
    result: npt.NDArray[np.float32] = np.ldexp(
        (1 + (rest + rest * rest * u)).astype(f32), whole.astype(np.int32)
    ).astype(f32)
    tail = len(exponents) // _LANES * _LANES
    result[tail:] = np.power(f64(f32(base)), exponents64[tail:]).astype(f32)
    return result

"""Operations of the forward pass that know their derivative: each returns its result and a function for the way back.

Everything is float32 in numpy. A function for the way back takes the gradient at the result and returns that at the
input (or at each of them). Formulas are checked against PyTorch's by golden gradients in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from ggquant.runtime.ops import AttentionShape, Floats

Back: TypeAlias = Callable[[Floats], Floats]


def rms_norm(x: Floats, weight: Floats, eps: float) -> tuple[Floats, Back]:
    """`x / rms(x) * weight` over parts of rows as long as the weight."""
    parts = x.reshape(-1, len(weight))
    inverse = 1 / np.sqrt(np.mean(np.square(parts), axis=1, keepdims=True) + np.float32(eps))
    unit = parts * inverse

    def back(dy: Floats) -> Floats:
        scaled = dy.reshape(unit.shape) * weight
        dx = (scaled - unit * np.mean(scaled * unit, axis=1, keepdims=True)) * inverse
        return np.asarray(dx.reshape(dy.shape), np.float32)

    return np.asarray((unit * weight).reshape(x.shape), np.float32), back


def layer_norm(x: Floats, weight: Floats, bias: Floats | None, eps: float) -> tuple[Floats, Back]:
    """Mean 0 and variance 1 over parts of rows as long as the weight, then weight and bias."""
    parts = x.reshape(-1, len(weight))
    centred = parts - parts.mean(axis=1, keepdims=True)
    inverse = 1 / np.sqrt(np.mean(np.square(centred), axis=1, keepdims=True) + np.float32(eps))
    unit = centred * inverse

    def back(dy: Floats) -> Floats:
        scaled = dy.reshape(unit.shape) * weight
        scaled = scaled - scaled.mean(axis=1, keepdims=True)
        dx = (scaled - unit * np.mean(scaled * unit, axis=1, keepdims=True)) * inverse
        return np.asarray(dx.reshape(dy.shape), np.float32)

    y = unit * weight + (0 if bias is None else bias)
    return np.asarray(y.reshape(x.shape), np.float32), back


def rotate(x: Floats, heads: int, cos: Floats, sin: Floats, *, halves: bool) -> tuple[Floats, Back]:
    """Rotates the heads of rows `x` [tokens, heads * head_dim]; `cos`, `sin` [positions, pairs]."""
    positions, pairs = cos.shape

    def turn(rows: Floats, sine: Floats) -> Floats:
        y = rows.reshape(-1, positions, heads, rows.shape[1] // heads).copy()
        c, s = cos[:, None, :], sine[:, None, :]
        first = y[..., :pairs] if halves else y[..., 0 : 2 * pairs : 2]
        second = y[..., pairs : 2 * pairs] if halves else y[..., 1 : 2 * pairs : 2]
        a, b = first * c - second * s, first * s + second * c
        first[...], second[...] = a, b
        return np.asarray(y.reshape(rows.shape), np.float32)

    # The transpose of a rotation is the rotation back; a common factor of both tables stays.
    return turn(x, sin), lambda dy: turn(dy, -sin)


def attention(
    q: Floats, k: Floats, v: Floats, shape: AttentionShape
) -> tuple[Floats, Callable[[Floats], tuple[Floats, Floats, Floats]]]:
    """Attention within chunks of `shape.sequence` tokens: rows of q, k, v hold one head after another."""
    n, group = shape.sequence, shape.heads // shape.kv_heads

    def by_head(x: Floats, heads: int, width: int) -> Floats:
        apart: Floats = x.reshape(-1, n, heads, width).transpose(0, 2, 1, 3)
        return apart

    def grouped(x: Floats, width: int) -> Floats:
        # [chunks, kv_heads, group * n, width]: queries of a group share keys and values.
        together: Floats = by_head(x, shape.heads, width).reshape(-1, shape.kv_heads, group * n, width)
        return together

    def rows(x: Floats, heads: int, width: int) -> Floats:
        together: Floats = np.ascontiguousarray(x.reshape(-1, heads, n, width).transpose(0, 2, 1, 3))
        return together.reshape(-1, heads * width)

    queries = grouped(q, shape.key_dim)
    keys, values = by_head(k, shape.kv_heads, shape.key_dim), by_head(v, shape.kv_heads, shape.value_dim)
    scores = np.matmul(queries, keys.transpose(0, 1, 3, 2)) * np.float32(shape.scale)
    slope: Floats | None = None
    if shape.soft_cap is not None:
        bent = np.tanh(scores / np.float32(shape.soft_cap))
        scores, slope = bent * np.float32(shape.soft_cap), 1 - np.square(bent)
    at = np.arange(n)
    hidden = at[None, :] > at[:, None] if shape.causal else np.zeros((n, n), bool)
    if shape.window is not None:
        hidden |= at[None, :] <= at[:, None] - shape.window
    scores += np.tile(np.where(hidden, np.float32(-np.inf), np.float32(0)), (group, 1))
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    shares = scores
    out = rows(np.matmul(shares, values), shape.heads, shape.value_dim)

    def back(dy: Floats) -> tuple[Floats, Floats, Floats]:
        above = grouped(dy, shape.value_dim)
        d_values = np.matmul(shares.transpose(0, 1, 3, 2), above)
        d_scores = np.matmul(above, values.transpose(0, 1, 3, 2))
        d_scores -= np.sum(d_scores * shares, axis=-1, keepdims=True)
        d_scores *= shares
        if slope is not None:
            d_scores *= slope
        d_scores *= np.float32(shape.scale)
        d_queries = np.matmul(d_scores, keys)
        d_keys = np.matmul(d_scores.transpose(0, 1, 3, 2), queries)
        return (
            rows(d_queries, shape.heads, shape.key_dim),
            rows(d_keys, shape.kv_heads, shape.key_dim),
            rows(d_values, shape.kv_heads, shape.value_dim),
        )

    return out, back


def activation(x: Floats, kind: str) -> tuple[Floats, Floats]:
    """The activation of each value, and its derivative there."""
    if kind == "relu":
        return np.maximum(x, 0), (x > 0).astype(np.float32)
    if kind == "silu":
        gate = 1 / (1 + np.exp(-x))
        return np.asarray(x * gate, np.float32), np.asarray(gate * (1 + x * (1 - gate)), np.float32)
    if kind == "gelu_tanh":
        a, b = np.float32(math.sqrt(2 / math.pi)), np.float32(0.044715)
        t = np.tanh(a * (x + b * x * x * x))
        slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * a * (1 + 3 * b * x * x)
        return np.asarray(0.5 * x * (1 + t), np.float32), np.asarray(slope, np.float32)
    if kind == "gelu":
        erf = np.vectorize(math.erf, otypes=[np.float32])
        share = 0.5 * (1 + erf(x * np.float32(math.sqrt(0.5))))
        density = np.exp(-0.5 * x * x) * np.float32(1 / math.sqrt(2 * math.pi))
        return np.asarray(x * share, np.float32), np.asarray(share + x * density, np.float32)
    raise ValueError(f"no derivative of the activation '{kind}'")

"""Operations of the forward pass that know their derivative: each returns its result and a function for the way back.

Everything is float32: products and elementary functions are native, since numpy's depend on the machine, and the rest
is numpy. A function for the way back takes the gradient at the result and returns that at the
input (or at each of them). Formulas are checked against PyTorch's by golden gradients in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from ggquant.product import matmul
from ggquant.runtime import ops
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
    scores = _products(queries, keys) * np.float32(shape.scale)
    slope: Floats | None = None
    if shape.soft_cap is not None:
        ops.soft_cap_in_place(scores, shape.soft_cap, None)
        slope = 1 - np.square(scores / np.float32(shape.soft_cap))
    at = np.arange(n)
    hidden = at[None, :] > at[:, None] if shape.causal else np.zeros((n, n), bool)
    if shape.window is not None:
        hidden |= at[None, :] <= at[:, None] - shape.window
    scores += np.tile(np.where(hidden, np.float32(-np.inf), np.float32(0)), (group, 1))
    shares = ops.softmax(scores)
    out = rows(_products(shares, values.swapaxes(2, 3)), shape.heads, shape.value_dim)

    def back(dy: Floats) -> tuple[Floats, Floats, Floats]:
        above = grouped(dy, shape.value_dim)
        d_values = _products(shares.swapaxes(2, 3), above.swapaxes(2, 3))
        d_scores = _products(above, values)
        d_scores -= np.sum(d_scores * shares, axis=-1, keepdims=True)
        d_scores *= shares
        if slope is not None:
            d_scores *= slope
        d_scores *= np.float32(shape.scale)
        d_queries = _products(d_scores, keys.swapaxes(2, 3))
        d_keys = _products(d_scores.swapaxes(2, 3), queries.swapaxes(2, 3))
        return (
            rows(d_queries, shape.heads, shape.key_dim),
            rows(d_keys, shape.kv_heads, shape.key_dim),
            rows(d_values, shape.kv_heads, shape.value_dim),
        )

    return out, back


def _products(a: Floats, b: Floats) -> Floats:
    """`a b^T` of the last two axes, for each pair of the first two."""
    out = np.empty((*a.shape[:3], b.shape[2]), np.float32)
    for at in np.ndindex(a.shape[:2]):
        matmul(np.ascontiguousarray(b[at]), np.ascontiguousarray(a[at]), activations="float32", out=out[at])
    return out


def activation(x: Floats, kind: str) -> tuple[Floats, Floats]:
    """The activation of each value, and its derivative there."""
    if kind == "relu":
        return np.maximum(x, 0), (x > 0).astype(np.float32)
    if kind == "silu":
        gate = ops.curve(x, "sigmoid")
        return np.asarray(x * gate, np.float32), np.asarray(gate * (1 + x * (1 - gate)), np.float32)
    if kind == "gelu_tanh":
        a, b = np.float32(math.sqrt(2 / math.pi)), np.float32(0.044715)
        # (1 + tanh u) / 2 = sigmoid(2u)
        gate = ops.curve(2 * a * (x + b * x * x * x), "sigmoid")
        slope = gate + 2 * x * gate * (1 - gate) * a * (1 + 3 * b * x * x)
        return np.asarray(x * gate, np.float32), np.asarray(slope, np.float32)
    if kind == "gelu":
        share = ops.curve(x, "normal")
        density = ops.curve(-0.5 * x * x, "exp") * np.float32(1 / math.sqrt(2 * math.pi))
        return np.asarray(x * share, np.float32), np.asarray(share + x * density, np.float32)
    raise ValueError(f"no derivative of the activation '{kind}'")

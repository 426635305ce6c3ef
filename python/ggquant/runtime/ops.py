"""The native operations on arrays of any shape: checks and views here, arithmetic in Rust."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ggquant import _native

Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Sizes and kind of an attention.

    Attributes:
        sequence: tokens in a chunk.
        heads, kv_heads: heads of queries, and of keys and values.
        key_dim, value_dim: widths of a head.
        scale: factor of the scores.
        causal: whether tokens see only those before them.
        window: how many tokens back a token sees, itself included; None for all.
        soft_cap: bound of the scores; None for none.
    """

    sequence: int
    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    scale: float
    causal: bool = True
    window: int | None = None
    soft_cap: float | None = None


def rms_norm(x: Floats, weight: Floats, eps: float, threads: int | None) -> Floats:
    """`x / rms(x) * weight` over rows of `weight`'s length."""
    return _native.rms_norm(_flat(x), weight, eps, threads).reshape(x.shape)


def layer_norm(x: Floats, weight: Floats, bias: Floats | None, eps: float, threads: int | None) -> Floats:
    """Mean 0 and variance 1 over rows of `weight`'s length, then weight and bias."""
    return _native.layer_norm(_flat(x), weight, bias, eps, threads).reshape(x.shape)


def rope_in_place(
    x: Floats, heads: int, head_dim: int, cos: Floats, sin: Floats, *, halves: bool, threads: int | None
) -> None:
    """Rotates the heads of rows `x` [tokens, heads * head_dim]; `cos` and `sin` are [positions, pairs]."""
    _native.rope(_flat(x, writable=True), heads, head_dim, _flat(cos), _flat(sin), cos.shape[1], halves, threads)


def attention(
    q: Floats, k: Floats, v: Floats, shape: AttentionShape, sinks: Floats | None, threads: int | None
) -> Floats:
    """Attention within chunks of `shape.sequence` tokens; the result is [tokens, heads * value_dim]."""
    out = _native.attention(
        _flat(q), _flat(k), _flat(v), shape.sequence, shape.heads, shape.kv_heads, shape.key_dim, shape.value_dim,
        shape.scale, shape.causal, shape.window, shape.soft_cap, sinks, threads,
    )  # fmt: skip
    return out.reshape(len(q), shape.heads * shape.value_dim)


def activate_in_place(x: Floats, kind: str, threads: int | None) -> None:
    """Applies "silu", "gelu", "gelu_tanh" or "relu"."""
    _native.activate(_flat(x, writable=True), kind, threads)


def gated_in_place(gate: Floats, up: Floats, kind: str, threads: int | None) -> None:
    """`gate` becomes `activation(gate) * up`, or gpt-oss's product ("swiglu_oai")."""
    _native.gated(_flat(gate, writable=True), _flat(up), kind, threads)


def soft_cap_in_place(x: Floats, cap: float, threads: int | None) -> None:
    """`x` becomes `cap * tanh(x / cap)`."""
    _native.soft_cap(_flat(x, writable=True), cap, threads)


def rounded(x: Floats, kind: str, threads: int | None) -> Floats:
    """Each value of `x` rounded to the nearest "F16" or "BF16", ties to even."""
    out = np.empty(x.shape, np.float32)
    _native.round_to(_flat(x), kind, out.reshape(-1), threads)
    return out


def column_squares(x: Floats, threads: int | None) -> npt.NDArray[np.float64]:
    """The sum of squares of each column of rows `x`."""
    return _native.column_squares(_flat(x), x.shape[-1], threads)


def negative_log_likelihood(
    logits: Floats, targets: npt.NDArray[np.integer], threads: int | None
) -> npt.NDArray[np.float64]:
    """-ln of the probability that each row of `logits` [rows, n_vocab] gives to its target [rows]."""
    wanted = np.ascontiguousarray(targets, dtype=np.uint32).reshape(-1)
    return _native.negative_log_likelihood(_flat(logits), logits.shape[-1], wanted, threads)


def softmax(x: Floats, threads: int | None = None) -> Floats:
    """Softmax over the last axis."""
    result = np.array(x, dtype=np.float32, order="C")
    _native.softmax(result.reshape(-1), x.shape[-1], threads)
    return result


def curve(x: Floats, kind: str, threads: int | None = None) -> Floats:
    """ "sigmoid", "normal" (the share of a normal distribution below x) or "exp" of each value."""
    result = np.array(x, dtype=np.float32, order="C")
    _native.curve(result.reshape(-1), kind, threads)
    return result


def _flat(x: Floats, *, writable: bool = False) -> Floats:
    """A flat view of a contiguous array; without `writable`, a copy of one that is not."""
    if writable and not x.flags.c_contiguous:
        raise ValueError("an array that is changed in place must be contiguous")
    return np.ascontiguousarray(x).reshape(-1)

"""One layer of a model, with its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np

from ggquant.architectures.graph import Graph, Half
from ggquant.errors import ShapeError
from ggquant.runtime import ops, rope
from ggquant.runtime.experts import Experts
from ggquant.runtime.hyper import Hyper
from ggquant.runtime.linear import Arithmetic, ExpertStack, Hook, Linear
from ggquant.runtime.ops import AttentionShape, Floats

#: Tokens that go through a layer at a time, as far as whole chunks allow: enough to use a weight well once it is in the
#: cache, few enough that what lies between the matrices stays small.
GROUP_TOKENS = 2048


class Tensors(Protocol):
    """Where a layer's tensors come from; names without the layer's prefix."""

    def linear(self, name: str) -> Linear:
        """The matrix `<name>.weight`, with `<name>.bias` if there is one."""

    def maybe_linear(self, name: str) -> Linear | None:
        """As `linear`; None where the layer has none of that name."""

    def stack(self, name: str) -> ExpertStack:
        """The matrices of all experts."""

    def vector(self, name: str) -> Floats | None:
        """A small tensor as float32, of this layer or of the model."""

    def has(self, name: str) -> bool:
        """Whether the layer has a tensor of that full name."""


class Norm:
    """A norm with its weight, and its bias if it has one."""

    def __init__(self, weight: Floats, bias: Floats | None, graph: Graph, eps: float, threads: int | None) -> None:
        self._weight, self._bias, self._eps, self._threads = weight, bias, eps, threads
        self._rms = graph.norm == "rms"

    def __call__(self, x: Floats) -> Floats:
        """The norm over parts of rows as long as the weight."""
        if self._rms:
            return ops.rms_norm(x, self._weight, self._eps, self._threads)
        return ops.layer_norm(x, self._weight, self._bias, self._eps, self._threads)


class Block:
    """One layer. Calling it runs chunks of tokens through it; several threads may do so at a time.

    Attributes:
        layer: its number.
        experts: its mixture of experts; None where it has a plain feed-forward network.
    """

    def __init__(self, layer: int, hyper: Hyper, tensors: Tensors, how: Arithmetic) -> None:
        graph = hyper.graph
        self.layer = layer
        self._hyper = hyper
        self._threads = how.threads
        self._halves = tuple(self._norms(half, tensors) for half in (graph.attention, graph.feed_forward))
        self._scale = np.float32(hyper.number("residual_scale", 1.0))
        self._attention = _Attention(layer, hyper, tensors, self._norm(tensors, "attn_q_norm"),
                                     self._norm(tensors, "attn_k_norm"), how)  # fmt: skip
        self.experts = _experts(hyper, tensors, how.threads) if tensors.has("ffn_gate_inp.weight") else None
        activation = str(hyper.get("activation", graph.activation))
        self._feed_forward = self.experts or _FeedForward(tensors, activation, how.threads)

    def __call__(
        self, h: Floats, hook: Hook | None = None, out: Floats | None = None, wanted: slice = slice(None)
    ) -> Floats:
        """Runs hidden states through the layer.

        Args:
            h: [n_chunks, n_ctx, hidden], float32; positions start anew in each chunk.
            hook: gets the input of every weight matrix, see `Hook`.
            out: where the result goes, of the shape of `h`, and possibly `h` itself; a new array by default.
            wanted: the positions of each chunk whose result is needed, for a last layer: only these go through the
                feed-forward network.

        Returns:
            The hidden states after the layer, of the same shape; only those of the wanted positions mean anything.

        Raises:
            ShapeError: `h` has another shape.
        """
        if h.ndim != 3 or h.shape[2] != self._hyper.hidden_size:
            raise ShapeError(f"hidden states of shape {h.shape}: need [n_chunks, n_ctx, {self._hyper.hidden_size}]")
        out = np.empty(h.shape, np.float32) if out is None else out
        step = max(1, GROUP_TOKENS // max(h.shape[1], 1))
        for start in range(0, len(h), step):
            part = np.ascontiguousarray(h[start : start + step], dtype=np.float32)
            out[start : start + step, wanted] = self._run(part, hook, wanted)
        return out

    def _run(self, h: Floats, hook: Hook | None, wanted: slice) -> Floats:
        """The result for the wanted positions of h [n_chunks, n_ctx, hidden]."""
        x = self._half(0, h.reshape(-1, h.shape[2]), lambda y: self._attention(y, h.shape[1], hook))
        kept = np.ascontiguousarray(x.reshape(h.shape)[:, wanted])
        return self._half(1, kept.reshape(-1, h.shape[2]), lambda y: self._feed_forward(y, hook)).reshape(kept.shape)

    def _half(self, index: int, x: Floats, f: Callable[[Floats], Floats]) -> Floats:
        norm, out_norm, sum_norm = self._halves[index]
        y = f(norm(x) if norm else x)
        if out_norm:
            y = out_norm(y)
        if self._scale != 1:
            y *= self._scale
        y += x
        return sum_norm(y) if sum_norm else y

    def _norms(self, half: Half, tensors: Tensors) -> tuple[Norm | None, Norm | None, Norm | None]:
        names = (half.norm, half.out_norm, half.sum_norm)
        first, second, third = (self._norm(tensors, name) if name else None for name in names)
        return first, second, third

    def _norm(self, tensors: Tensors, name: str) -> Norm | None:
        weight = tensors.vector(f"{name}.weight")
        if weight is None:
            return None
        bias = tensors.vector(f"{name}.bias")
        return Norm(weight, bias, self._hyper.graph, self._hyper.eps, self._threads)


class _Attention:
    """Queries, keys and values, their norms and rotation, attention, and the projection of its result."""

    def __init__(
        self, layer: int, hyper: Hyper, tensors: Tensors, q_norm: Norm | None, k_norm: Norm | None, how: Arithmetic
    ) -> None:
        self._shape = AttentionShape(
            sequence=1,
            heads=hyper.heads(layer),
            kv_heads=hyper.kv_heads(layer),
            key_dim=hyper.key_dim(layer),
            value_dim=hyper.value_dim(layer),
            scale=hyper.attention_scale(layer),
            causal=bool(hyper.get("attention.causal", hyper.graph.causal)),
            window=hyper.window(layer),
            soft_cap=hyper.optional("attn_logit_softcapping"),
        )
        self._layer, self._hyper, self._threads = layer, hyper, how.threads
        self._rounds = how.rounds
        self._q_norm, self._k_norm = q_norm, k_norm
        self._fused = tensors.maybe_linear("attn_qkv")
        if self._fused is None:
            self._separate = tuple(tensors.linear(f"attn_{name}") for name in "qkv")
        self._output = tensors.linear("attn_output")
        self._sinks = tensors.vector("attn_sinks.weight")
        self._factors = {name: tensors.vector(f"{name}.weight") for name in _FACTORS}
        self._tables: tuple[Floats, Floats] | None = None

    def __call__(self, x: Floats, sequence: int, hook: Hook | None) -> Floats:
        shape = replace(self._shape, sequence=sequence)
        q, k, v = self._projections(x, hook)
        q, k = self._q_norm(q) if self._q_norm else q, self._k_norm(k) if self._k_norm else k
        if self._hyper.graph.rope != "none":
            cos, sin = self._angles(sequence)
            halves = self._hyper.graph.rope == "halves"
            for y, heads in ((q, shape.heads), (k, shape.kv_heads)):
                ops.rope_in_place(y, heads, shape.key_dim, cos, sin, halves=halves, threads=self._threads)
        if self._rounds:
            k, v = (ops.rounded(y, "F16", self._threads) for y in (k, v))
        return self._output(ops.attention(q, k, v, shape, self._sinks, self._threads), hook)

    def _projections(self, x: Floats, hook: Hook | None) -> tuple[Floats, Floats, Floats]:
        if self._fused is None:
            q, k, v = (linear(x, hook, reuse=True) for linear in self._separate)
            return q, k, v
        shape = self._shape
        ends = np.cumsum([shape.heads * shape.key_dim, shape.kv_heads * shape.key_dim])
        q, k, v = (np.ascontiguousarray(part) for part in np.split(self._fused(x, hook), ends, axis=1))
        return q, k, v

    def _angles(self, sequence: int) -> tuple[Floats, Floats]:
        tables = self._tables
        if tables is None or len(tables[0]) != sequence:
            name = "rope_freqs"
            if self._factors[name] is None:
                long = sequence > rope.original_context(self._hyper)
                name = "rope_factors_long" if long else "rope_factors_short"
            tables = self._tables = rope.tables(self._hyper, self._layer, sequence, self._factors[name])
        return tables


#: Divisors of RoPE's frequencies; the model has at most one kind.
_FACTORS = ("rope_freqs", "rope_factors_long", "rope_factors_short")


class _FeedForward:
    """A feed-forward network: gated where there is a gate, or where `ffn_up` holds it above itself."""

    def __init__(self, tensors: Tensors, activation: str, threads: int | None) -> None:
        self._gate = tensors.maybe_linear("ffn_gate")
        self._up = tensors.linear("ffn_up")
        self._down = tensors.linear("ffn_down")
        self._activation = activation
        self._threads = threads
        self._holds_gate = self._gate is None and self._up.rows == 2 * self._down.columns

    def __call__(self, x: Floats, hook: Hook | None) -> Floats:
        y = self._gate(x, hook) if self._gate is not None else None
        up = self._up(x, hook, reuse=y is not None)
        if self._holds_gate:
            y, up = (np.ascontiguousarray(half) for half in np.split(up, 2, axis=1))
        if y is None:
            y = up
            ops.activate_in_place(y, self._activation, self._threads)
        else:
            ops.gated_in_place(y, up, self._activation, self._threads)
        return self._down(y, hook)


def _experts(hyper: Hyper, tensors: Tensors, threads: int | None) -> Experts:
    return Experts(
        tensors.linear("ffn_gate_inp"),
        tensors.stack("ffn_gate_exps"),
        tensors.stack("ffn_up_exps"),
        tensors.stack("ffn_down_exps"),
        chosen=hyper.size("expert_used_count"),
        normalizes=bool(hyper.get("expert_weights_norm", hyper.graph.router_normalizes)),
        scale=hyper.number("expert_weights_scale", 0.0) or 1.0,
        graph=hyper.graph,
        threads=threads,
    )

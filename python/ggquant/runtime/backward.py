"""The way back through a model: gradients at the output of every weight matrix.

Layers are run forward with only their inputs kept, and once more, last to first, with what the way back needs. No
layer's intermediate values outlive it. Models with experts, with attention sinks, or without logits have no way back
here, and `open_gradients` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ggquant.errors import NonFiniteError, UnsupportedError
from ggquant.linalg import product
from ggquant.product import matmul
from ggquant.runtime import derivatives as d
from ggquant.runtime.block import Tensors
from ggquant.runtime.linear import Linear
from ggquant.runtime.model import RunnableModel
from ggquant.runtime.ops import AttentionShape, Floats
from ggquant.runtime.rope import original_context, tables
from ggquant.runtime.weights import as_float32

GradientHook: TypeAlias = Callable[[str, Floats, Floats], object]
"""Called for every weight matrix with its GGUF name, its input [tokens, K] and the gradient at its output.

The gradient is [tokens, rows]. For the token embedding the input is empty, [tokens, 0], and the gradient is that at the
first hidden states.
"""

_ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")


class Gradients:
    """Runs chunks forward and back. Made by `open_gradients`."""

    def __init__(self, model: RunnableModel) -> None:
        self._model = model

    def run(self, tokens: npt.NDArray[np.int64], slope: Callable[[Floats, int], Floats], hook: GradientHook) -> None:
        """Gradients of a function of the logits, for a few chunks.

        Args:
            tokens: [n_chunks, n_ctx].
            slope: given the logits of a chunk [n_ctx, n_vocab] and its number, the function's gradient there.
            hook: gets the gradients, see `GradientHook`.

        Raises:
            NonFiniteError: the logits are not finite.
        """
        model = self._model
        states = [model.embed(tokens)]
        for layer in range(model.n_layer):
            states.append(model.block(layer)(states[-1]))
        dh = np.concatenate([self._output(h, number, slope, hook) for number, h in enumerate(states.pop())])
        for layer in reversed(range(model.n_layer)):
            block = _Layer(model, layer, tokens.shape[1], hook)
            x = states.pop()
            dh = block.back(x.reshape(-1, x.shape[-1]), dh)
        hook("token_embd.weight", np.empty((len(dh), 0), np.float32), self._embedding(tokens, dh))

    def _output(self, h: Floats, number: int, slope: Callable[[Floats, int], Floats], hook: GradientHook) -> Floats:
        model = self._model
        x, norm_back = _norm(model, model.layer_tensors(0), "output_norm", h)
        weight = as_float32(model.weight(model.output_name))
        logits = model.logits(h)
        if not np.isfinite(logits).all():
            raise NonFiniteError(f"{model.path}: the logits of a calibration chunk are not finite", file=model.path)
        dy = slope(logits, number)
        cap = model.hyper.optional("final_logit_softcapping")
        if cap is not None:
            dy = dy * (1 - np.square(logits / np.float32(cap)))
        scale = model.hyper.optional("logit_scale")
        if scale is not None:
            dy = dy / np.float32(scale)
        hook(model.output_name, x, dy)
        return norm_back(product(dy, weight, model.threads).astype(np.float32))

    def _embedding(self, tokens: npt.NDArray[np.int64], dh: Floats) -> Floats:
        model = self._model
        scale = model.hyper.number("embedding_scale", 0.0)
        if model.graph.scale_embedding:
            scale = float(np.sqrt(np.float32(model.hidden_size)))
        return dh * np.float32(scale) if scale else dh


def open_gradients(model: RunnableModel) -> Gradients:
    """The way back through a model.

    Raises:
        UnsupportedError: the model has a part without a way back; the message names it.
    """
    reason = without_gradients(model)
    if reason:
        raise UnsupportedError(f"{model.path}: gradients are not available: {reason}", file=model.path)
    return Gradients(model)


def without_gradients(model: RunnableModel) -> str:
    """Why a model has no way back; empty if it has one."""
    names = {tensor.name for tensor in model.source.tensors}
    if not model.causal:
        return f"{model.arch} is an encoder, which has no logits"
    if any(name.endswith("_exps.weight") for name in names):
        return "mixtures of experts have no way back yet"
    if any(name.endswith("attn_sinks.weight") for name in names):
        return "attention sinks have no way back yet"
    if "token_embd_norm.weight" in names:
        return "a norm of the embeddings has no way back yet"
    if str(model.hyper.get("activation", model.graph.activation)) not in _ACTIVATIONS:
        return f"the activation {model.graph.activation} has no way back yet"
    return ""


def _norm(model: RunnableModel, tensors: Tensors, name: str, x: Floats) -> tuple[Floats, d.Back]:
    weight = tensors.vector(f"{name}.weight") if name else None
    if weight is None:
        return x, lambda dy: dy
    if model.graph.norm == "rms":
        return d.rms_norm(x, weight, model.hyper.eps)
    return d.layer_norm(x, weight, tensors.vector(f"{name}.bias"), model.hyper.eps)


class _Layer:
    """One layer with what its way back needs."""

    def __init__(self, model: RunnableModel, layer: int, sequence: int, hook: GradientHook) -> None:
        self._model, self._layer, self._hook = model, layer, hook
        self._tensors = model.layer_tensors(layer)
        hyper = model.hyper
        self._scale = np.float32(hyper.number("residual_scale", 1.0))
        self._shape = AttentionShape(
            sequence=sequence,
            heads=hyper.heads(layer),
            kv_heads=hyper.kv_heads(layer),
            key_dim=hyper.key_dim(layer),
            value_dim=hyper.value_dim(layer),
            scale=hyper.attention_scale(layer),
            causal=model.causal,
            window=hyper.window(layer),
            soft_cap=hyper.optional("attn_logit_softcapping"),
        )

    def back(self, x: Floats, dy: Floats) -> Floats:
        """The gradient at the layer's input x [tokens, hidden], given that at its output."""
        graph = self._model.graph
        middle, first = self._half(graph.attention, self._attention, x)
        _, second = self._half(graph.feed_forward, self._feed_forward, middle)
        return first(second(dy))

    def _half(self, half: object, f: Callable[[Floats], tuple[Floats, d.Back]], x: Floats) -> tuple[Floats, d.Back]:
        names = [str(getattr(half, name)) for name in ("norm", "out_norm", "sum_norm")]
        inner, norm_back = _norm(self._model, self._tensors, names[0], x)
        y, f_back = f(inner)
        y, out_back = _norm(self._model, self._tensors, names[1], y)
        y, sum_back = _norm(self._model, self._tensors, names[2], y * self._scale + x)

        def back(dy: Floats) -> Floats:
            dy = sum_back(dy)
            return dy + norm_back(f_back(out_back(dy * self._scale)))

        return y, back

    def _linear(self, linear: Linear, x: Floats) -> tuple[Floats, d.Back]:
        weight = as_float32(linear.weight)
        threads = self._model.threads
        y = matmul(weight, x, activations="float32", threads=threads)
        if linear.bias is not None:
            y += linear.bias

        def back(dy: Floats) -> Floats:
            self._hook(linear.name, x, dy)
            return product(dy, weight, threads).astype(np.float32)

        return y, back

    def _attention(self, x: Floats) -> tuple[Floats, d.Back]:
        tensors, shape = self._tensors, self._shape
        fused = tensors.maybe_linear("attn_qkv")
        if fused is None:
            (q, q_back), (k, k_back), (v, v_back) = (self._linear(tensors.linear(f"attn_{n}"), x) for n in "qkv")

            def joint(dq: Floats, dk: Floats, dv: Floats) -> Floats:
                return q_back(dq) + k_back(dk) + v_back(dv)
        else:
            y, y_back = self._linear(fused, x)
            ends = np.cumsum([shape.heads * shape.key_dim, shape.kv_heads * shape.key_dim])
            q, k, v = np.split(y, ends, axis=1)

            def joint(dq: Floats, dk: Floats, dv: Floats) -> Floats:
                return y_back(np.concatenate([dq, dk, dv], axis=1))

        q, q_norm = _norm(self._model, tensors, "attn_q_norm", q)
        k, k_norm = _norm(self._model, tensors, "attn_k_norm", k)
        q, q_turn = self._rotated(q, shape.heads)
        k, k_turn = self._rotated(k, shape.kv_heads)
        mixed, mixed_back = d.attention(q, k, v, shape)
        out, out_back = self._linear(tensors.linear("attn_output"), mixed)

        def back(dy: Floats) -> Floats:
            dq, dk, dv = mixed_back(out_back(dy))
            return joint(q_norm(q_turn(dq)), k_norm(k_turn(dk)), dv)

        return out, back

    def _rotated(self, x: Floats, heads: int) -> tuple[Floats, d.Back]:
        hyper = self._model.hyper
        if hyper.graph.rope == "none":
            return x, lambda dy: dy
        factors = self._tensors.vector("rope_freqs.weight")
        if factors is None:
            long = self._shape.sequence > original_context(hyper)
            factors = self._tensors.vector(f"rope_factors_{'long' if long else 'short'}.weight")
        cos, sin = tables(hyper, self._layer, self._shape.sequence, factors)
        return d.rotate(x, heads, cos, sin, halves=hyper.graph.rope == "halves")

    def _feed_forward(self, x: Floats) -> tuple[Floats, d.Back]:
        tensors = self._tensors
        kind = str(self._model.hyper.get("activation", self._model.graph.activation))
        up, up_back = self._linear(tensors.linear("ffn_up"), x)
        down = tensors.linear("ffn_down")
        gate_linear = tensors.maybe_linear("ffn_gate")
        if gate_linear is None and up.shape[1] == 2 * down.columns:
            gate, up = np.split(up, 2, axis=1)

            def joint(d_gate: Floats, d_up: Floats) -> Floats:
                return up_back(np.concatenate([d_gate, d_up], axis=1))
        elif gate_linear is not None:
            gate, gate_back = self._linear(gate_linear, x)

            def joint(d_gate: Floats, d_up: Floats) -> Floats:
                return gate_back(d_gate) + up_back(d_up)
        else:
            active, slope = d.activation(up, kind)
            y, down_back = self._linear(down, active)
            return y, lambda dy: up_back(down_back(dy) * slope)
        active, slope = d.activation(gate, kind)
        y, down_back = self._linear(down, active * up)

        def back(dy: Floats) -> Floats:
            inner = down_back(dy)
            return joint(inner * up * slope, inner * active)

        return y, back

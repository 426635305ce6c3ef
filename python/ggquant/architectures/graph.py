"""What a family's forward pass looks like: choices among parts that `ggquant.runtime` carries out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Half:
    """Attention or feed-forward within a layer, `x + f(x)`, and where it normalizes.

    Attributes:
        norm: name of the norm of the input; empty where there is none.
        out_norm: name of the norm of what is added to the residual stream.
        sum_norm: name of the norm of the sum, where the stream itself is normalized (post-norm layers).
    """

    norm: str = ""
    out_norm: str = ""
    sum_norm: str = ""


@dataclass(frozen=True, slots=True)
class Fold:
    """Where scales of columns can be taken up: a layer computes the same when the columns of all `readers` are scaled,
    and what makes their input is scaled by the reciprocals.

    Attributes:
        readers: all matrices that may read the input; a layer has some of them.
        makers: what makes it: a half's norm, "attention" or "feed_forward"; or matrices, of which a layer has one,
            whose last rows make it.
        through: what lies between maker and readers: "nothing", "heads" (attention, whose heads of values may be
            shared), or "gate" (an activation of one matrix times the maker's output, or of that output alone).
    """

    readers: tuple[str, ...]
    makers: tuple[str, ...]
    through: Literal["nothing", "heads", "gate"] = "nothing"


#: Of layers whose halves read one norm each.
FOLDS = (
    Fold(("attn_q", "attn_k", "attn_v", "attn_qkv"), ("attention",)),
    Fold(("attn_output",), ("attn_v", "attn_qkv"), "heads"),
    Fold(("ffn_gate_inp", "ffn_gate", "ffn_up", "ffn_gate_exps", "ffn_up_exps"), ("feed_forward",)),
    Fold(("ffn_down",), ("ffn_up",), "gate"),
    Fold(("ffn_down_exps",), ("ffn_up_exps",), "gate"),
)

#: By activation: whether factors above 0 pass a product with the activated gate, and the activation where it is alone.
PASSED = {
    "silu": (True, False),
    "gelu": (True, False),
    "gelu_tanh": (True, False),
    "relu": (True, True),
    "swiglu_oai": (False, False),
}


def _feeds() -> Mapping[str, tuple[str, ...]]:
    return {
        "ffn_down": ("ffn_gate", "ffn_up"),
        "ffn_down_exps": ("ffn_gate_exps", "ffn_up_exps"),
        "ffn_down_shexp": ("ffn_gate_shexp", "ffn_up_shexp"),
        "attn_output": ("attn_v", "attn_qkv"),
    }


@dataclass(frozen=True, slots=True)
class Graph:
    """A transformer, in terms of its GGUF tensors and metadata.

    What tensors say by being there is not repeated here: biases, a fused `attn_qkv`, an ungated feed-forward, experts,
    sinks, learned positions.

    Attributes:
        attention, feed_forward: the two halves of a layer.
        norm: kind of all norms.
        head_norm: whether `attn_q_norm` and `attn_k_norm` go over each "head" or over the "whole" row.
        rope: which values of a head rotate together: "neighbours" 2i and 2i+1, or "halves" i and i + n/2.
        activation: of the feed-forward network; "swiglu_oai" is gpt-oss's clamped product.
        router: "softmax" over all experts before the best are chosen, or "softmax_chosen" over those alone.
        router_normalizes: whether the chosen experts' weights are made to sum to 1, unless the model says otherwise.
        causal: whether tokens see only what is before them.
        full_every: where there is a sliding window, every how many layers one sees everything; 0 where all do.
        sliding_rope: whether layers with a window have a RoPE of their own, without scaling.
        scale_embedding: whether embeddings are multiplied by the root of their width.
        deep_scale_layers: number of layers of the size whose attention scale follows from the hidden size over the
            number of heads instead of from the head's width; 0 where no size does.
        feeds: for matrices of a layer, the matrices whose outputs are their inputs, output by output, but for an
            activation or a product of two of them (or, behind attention, within each head): those whose inputs can
            change places if these outputs do. Everything else reads the residual stream.
        folds: where scales of columns can be taken up.
    """

    attention: Half = Half("attn_norm")
    feed_forward: Half = Half("ffn_norm")
    norm: Literal["rms", "layer"] = "rms"
    head_norm: Literal["head", "whole"] = "head"
    rope: Literal["neighbours", "halves", "none"] = "halves"
    activation: Literal["silu", "gelu", "gelu_tanh", "relu", "swiglu_oai"] = "silu"
    router: Literal["softmax", "softmax_chosen"] = "softmax"
    router_normalizes: bool = True
    causal: bool = True
    full_every: int = 0
    sliding_rope: bool = False
    scale_embedding: bool = False
    deep_scale_layers: int = 0
    feeds: Mapping[str, tuple[str, ...]] = field(default_factory=_feeds)
    folds: tuple[Fold, ...] = FOLDS

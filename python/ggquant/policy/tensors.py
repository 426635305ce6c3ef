"""Tensor names: the category each belongs to, which tensors are never quantized, and the order of a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

__all__ = [
    "KEPT",
    "KEPT_FOR_ARCH",
    "V_LIKE",
    "Category",
    "Kept",
    "categorize",
    "ggml_dims",
    "kept_because",
    "layer_of",
    "order_key",
]


class Category(Enum):
    """The role of a tensor, as far as variants tell roles apart. The value is how it reads in tables."""

    OUTPUT = "output"
    TOKEN_EMBD = "token_embd"
    ATTN_QKV = "attn_qkv"
    ATTN_KV_B = "attn_kv_b"
    ATTN_V = "attn_v"
    ATTN_K = "attn_k"
    ATTN_Q = "attn_q"
    ATTN_OUTPUT = "attn_output"
    FFN_UP = "ffn_up"
    FFN_GATE = "ffn_gate"
    FFN_DOWN = "ffn_down"
    OTHER = "other"


V_LIKE = frozenset({Category.ATTN_V, Category.ATTN_QKV, Category.ATTN_KV_B})
"""Tensors that hold the values: attn_v itself, a fused qkv, and the joint up-projection of latent attention
(MLA). They follow the rules of attn_v and are counted together."""

_EXACT = {
    "output.weight": Category.OUTPUT,
    "token_embd.weight": Category.TOKEN_EMBD,
    "per_layer_token_embd.weight": Category.TOKEN_EMBD,
}
# First hit wins, so the order is part of the rule.
_PARTS = (
    ("attn_qkv.weight", Category.ATTN_QKV),
    ("attn_kv_b.weight", Category.ATTN_KV_B),
    ("attn_v.weight", Category.ATTN_V),
    ("attn_k.weight", Category.ATTN_K),
    ("attn_q.weight", Category.ATTN_Q),
    ("attn_output.weight", Category.ATTN_OUTPUT),
    ("ffn_up", Category.FFN_UP),
    ("ffn_gate", Category.FFN_GATE),
    ("ffn_down", Category.FFN_DOWN),
)


def categorize(name: str) -> Category:
    """The category of the tensor called `name`."""
    exact = _EXACT.get(name)
    if exact is not None:
        return exact
    return next((category for part, category in _PARTS if part in name), Category.OTHER)


@dataclass(frozen=True, slots=True)
class Kept:
    """Tensors that stay in the type they have: those whose name contains `part` (or is it, if `whole`)."""

    part: str
    reason: str
    whole: bool = False

    def matches(self, name: str) -> bool:
        """Whether the tensor called `name` is one of these."""
        return name == self.part if self.whole else self.part in name


_RWKV = "small RWKV mixing weight"
_RWKV_PARTS = (
    *("first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2"),
    *("decay_w1", "decay_w2", "lerp_fused"),
)
_IMAGE = "image and audio encoder part"

KEPT: tuple[Kept, ...] = (
    Kept("_norm.weight", "norm"),
    Kept("ffn_gate_inp.weight", "expert router"),
    Kept("ffn_gate_tid2eid.weight", "table of experts by token"),
    Kept("altup", "very small"),
    Kept("laurel", "very small"),
    Kept("per_layer_model_proj", "small projection"),
    Kept("position_embd.weight", "position embedding", whole=True),
    Kept("token_types.weight", "token type embedding", whole=True),
    Kept("ssm_conv1d", "short convolution"),
    Kept("shortconv.conv.weight", "short convolution"),
    Kept("indexer.k_proj.weight", "small indexer projection"),
    Kept("indexer.q_proj.weight", "small indexer projection"),
    *(Kept(f"time_mix_{part}.weight", _RWKV) for part in _RWKV_PARTS),
    Kept("attn_rel_b.weight", "relative position bias"),
    Kept(".position_embd", _IMAGE),
    Kept("sam.pos_embd", _IMAGE),
    Kept("sam.neck.", _IMAGE),
    Kept("sam.net_", _IMAGE),
    Kept(".rel_pos", _IMAGE),
    Kept(".patch_embd", _IMAGE),
    Kept(".patch_merger", _IMAGE),
    Kept("a.rvq.codebook", "audio codebook"),
    Kept("mm.a.code_embd", "audio codebook"),
)
"""What is kept in every architecture."""

KEPT_FOR_ARCH: dict[str, tuple[Kept, ...]] = {
    "glm5-next": tuple(
        Kept(part, "sensitive in this architecture")
        for part in (
            "hc_",
            "indexer.attn_q_b",
            "indexer.attn_k",
            "indexer.proj",
            "indexer_compressor_gate",
            "indexer_compressor_ape",
            "ssm_f_a.weight",
            "ssm_f_b.weight",
            "ssm_g_a.weight",
            "ssm_g_b.weight",
            "ssm_beta.weight",
            "attn_kv_a_mqa.weight",
            "attn_k_b.weight",
            "attn_v_b.weight",
        )
    ),
}
"""What single architectures keep besides."""

# One search instead of dozens for the many tensors that are none of these.
_ANY_KEPT = re.compile("|".join(re.escape(kept.part) for kept in KEPT))


def ggml_dims(shape: Sequence[int]) -> int:
    """Dimensions as ggml counts them: leading dimensions of 1 (in numpy order) do not count; at least 1."""
    dims = list(shape)
    while len(dims) > 1 and dims[0] == 1:
        dims.pop(0)
    return max(1, len(dims))


def kept_because(name: str, shape: Sequence[int], arch: str) -> str | None:
    """Why the tensor stays in the type it has, or None if it may be quantized."""
    if ggml_dims(shape) < 2:
        return "one-dimensional"
    # llama.cpp's test for the ending also lets names of exactly five bytes through.
    if not name.endswith("weight") and len(name.encode("utf-8", "surrogatepass")) != 5:
        return "not a weight"
    if _ANY_KEPT.search(name):
        reason = next((kept.reason for kept in KEPT if kept.matches(name)), None)
        if reason is not None:
            return reason
    return next((kept.reason for kept in KEPT_FOR_ARCH.get(arch, ()) if kept.matches(name)), None)


_LAYER = re.compile(r"blk\.[ \t\n\v\f\r]*([+-]?[0-9]+)")


def layer_of(name: str) -> int:
    """The layer that a name starts with (`blk.7.` gives 7), or -1."""
    found = _LAYER.match(name)
    if found is None:
        return -1
    # Numbers too large for C wrap like there; no real file has them.
    clamped = min(max(int(found[1]), -(2**63)), 2**63 - 1)
    return (clamped + 2**31) % 2**32 - 2**31


def order_key(name: str) -> tuple[int, bytes]:
    """Sort key of a file's tensors: those outside the layers first, then layer by layer, by name within
    each."""
    return layer_of(name), name.encode("utf-8", "surrogatepass")

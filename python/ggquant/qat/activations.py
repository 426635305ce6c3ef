"""Activations rounded to int8 blocks as ggml's matrix products round them, gradient straight through."""

from __future__ import annotations

from typing import Any

import torch

from ggquant.errors import ShapeError
from ggquant.registry import format_info

_SMALL = 32
_LARGE = 256


def activation_block(format: str) -> int:
    """Block length of the activations that a format's weights meet: 256 (Q8_K) for super-blocks, else 32 (Q8_0)."""
    return _LARGE if format_info(format).block_len == _LARGE else _SMALL


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, block: int) -> torch.Tensor:
        return round_activations(x, block)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def fake_quantize_activations(x: torch.Tensor, block: int) -> torch.Tensor:
    """`round_activations` in forward, the identity in backward."""
    result: torch.Tensor = _Rounded.apply(x, block)
    return result


def round_activations(x: torch.Tensor, block: int) -> torch.Tensor:
    """The values that ggml's int8 products see instead of `x`.

    Args:
        x: float `[..., K]`, K a multiple of `block`.
        block: 256: Q8_K, a float32 scale at which the value of largest magnitude becomes -127. 32: Q8_0 and Q8_1, a
            float16 scale of largest magnitude / 127.

    Returns:
        A new tensor of the shape and dtype of `x`.

    Raises:
        ShapeError: K is not a multiple of `block`.
    """
    if x.shape[-1] % block:
        raise ShapeError(f"activations of {x.shape[-1]} columns are not whole blocks of {block}")
    split = x.float().reshape(*x.shape[:-1], -1, block)
    at = split.abs().argmax(dim=-1, keepdim=True)
    largest = split.gather(-1, at)
    zero = largest == 0
    if block == _LARGE:
        # Not `-127 / largest`, which PyTorch computes as a product with the reciprocal.
        inverse = torch.where(zero, torch.zeros_like(largest), torch.full_like(largest, -127.0).div(largest))
        codes = torch.round(split * inverse).clamp_(max=127)
        scale = torch.where(zero, torch.zeros_like(largest), 1.0 / inverse)
    else:
        scale = largest.abs() / 127.0
        inverse = torch.where(zero, torch.zeros_like(scale), 1.0 / scale)
        codes = torch.round(split * inverse)
        scale = scale.half().float()
    return (codes * scale).reshape(x.shape).to(x.dtype)

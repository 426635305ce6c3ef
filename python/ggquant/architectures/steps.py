"""The steps that families' tensors go through."""

from __future__ import annotations

from ggquant.architectures.config import Config
from ggquant.architectures.family import Step
from ggquant.architectures.lazy import LazyTensor


def interleave_rope(*heads: str) -> Step:
    """Rows of each head from halves (x1, x2) to pairs (x1[0], x2[0], x1[1], ...), as ggml rotates.

    Args:
        heads: config keys of the number of heads, the first one present counts.
    """

    def step(tensor: LazyTensor, config: Config) -> LazyTensor:
        return tensor.split(0, config.positive(*heads), 2, -1).swap(1, 2).merge(0, 3)

    return step


def transpose(a: int, b: int) -> Step:
    """Exchanges two axes."""

    def step(tensor: LazyTensor, config: Config) -> LazyTensor:
        return tensor.swap(a, b)

    return step


def every(axis: int, offset: int, stride: int) -> Step:
    """Keeps each `stride`-th element of an axis from `offset` on: unzips interleaved halves."""

    def step(tensor: LazyTensor, config: Config) -> LazyTensor:
        return tensor.slice(axis, offset, None, stride)

    return step


def part(axis: int, index: int, of: int) -> Step:
    """Keeps one of `of` equal consecutive parts of an axis."""

    def step(tensor: LazyTensor, config: Config) -> LazyTensor:
        size = tensor.shape[axis] // of
        return tensor.slice(axis, index * size, (index + 1) * size)

    return step


def add(constant: float) -> Step:
    """Adds a constant, as norms that store their distance from one need."""

    def step(tensor: LazyTensor, config: Config) -> LazyTensor:
        return tensor.apply("add", constant)

    return step

"""View algebra: a stored tensor, reshaped, permuted and sliced without touching its data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from ggquant.checkpoint_index import StoredTensor
from ggquant.errors import CheckpointError
from ggquant.model import View

Axis = tuple[tuple[int, int], ...]
"""One axis as nested (size, stride) loops, outermost first; strides in elements."""


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A strided window on a stored tensor, with arithmetic to be applied to its values.

    An axis may be several nested loops, so any axes can be merged, whatever their strides.
    """

    stored: StoredTensor
    axes: tuple[Axis, ...]
    start: int = 0
    ops: tuple[tuple[str, float], ...] = ()

    @staticmethod
    def of(stored: StoredTensor) -> LazyTensor:
        """The whole of a stored tensor."""
        axes: list[Axis] = []
        stride = 1
        for size in reversed(stored.shape):
            axes.append(((size, stride),))
            stride *= size
        return LazyTensor(stored, tuple(reversed(axes)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""
        return tuple(prod(size for size, _ in axis) for axis in self.axes)

    def swap(self, a: int, b: int) -> LazyTensor:
        """Exchanges two axes; negative numbers count from the end."""
        axes = list(self.axes)
        axes[a], axes[b] = axes[b], axes[a]
        return replace(self, axes=tuple(axes))

    def merge(self, first: int, count: int) -> LazyTensor:
        """Makes one axis of `count` axes from `first` on, walked in their order."""
        merged = _coalesce(tuple(loop for axis in self.axes[first : first + count] for loop in axis))
        return replace(self, axes=(*self.axes[:first], merged, *self.axes[first + count :]))

    def split(self, axis: int, *sizes: int) -> LazyTensor:
        """Splits an axis into `sizes`, outermost first; one of them may be -1, for what remains."""
        size, stride = self._single(axis)
        known = prod(n for n in sizes if n != -1)
        if known <= 0 or size % known or (-1 not in sizes and known != size):
            raise self._refuse(f"an axis of {size} cannot be split into {sizes}")
        full = [size // known if n == -1 else n for n in sizes]
        loops: list[Axis] = []
        for n in reversed(full):
            loops.append(((n, stride),))
            stride *= n
        index = axis % len(self.axes)
        return replace(self, axes=(*self.axes[:index], *reversed(loops), *self.axes[index + 1 :]))

    def slice(self, axis: int, begin: int, end: int | None = None, step: int = 1) -> LazyTensor:
        """Keeps elements `begin`, `begin + step`, ... before `end` of an axis."""
        size, stride = self._single(axis)
        stop = size if end is None else min(end, size)
        if not 0 <= begin <= stop:
            raise self._refuse(f"elements {begin}..{stop} of an axis of {size}")
        count = (stop - begin + step - 1) // step
        index = axis % len(self.axes)
        axes = (*self.axes[:index], ((count, stride * step),), *self.axes[index + 1 :])
        return replace(self, axes=axes, start=self.start + begin * stride)

    def squeeze(self, axis: int) -> LazyTensor:
        """Drops an axis of size 1."""
        if self.shape[axis] != 1:
            raise self._refuse(f"axis {axis} of shape {self.shape} is not of size 1")
        index = axis % len(self.axes)
        return replace(self, axes=(*self.axes[:index], *self.axes[index + 1 :]))

    def apply(self, name: str, constant: float = 0.0) -> LazyTensor:
        """Adds an elementwise operation: in float32, but on half-precision tensors in their own precision.

        That is how llama.cpp's converter computes; it widens bfloat16 first.
        """
        rounding = (("round_f16", 0.0),) if self.stored.dtype == "F16" else ()
        return replace(self, ops=(*self.ops, (name, constant), *rounding))

    def view(self) -> View:
        """The window as the writer takes it."""
        loops = tuple(loop for axis in self.axes for loop in axis)
        return View(
            file=self.stored.file,
            offset=self.stored.offset,
            dtype=self.stored.dtype,
            shape=tuple(size for size, _ in loops),
            strides=tuple(stride for _, stride in loops),
            start=self.start,
            packed=self.stored.packed,
        )

    def _single(self, axis: int) -> tuple[int, int]:
        loops = self.axes[axis]
        if len(loops) != 1:
            raise self._refuse(f"axis {axis} is not evenly spaced any more")
        return loops[0]

    def _refuse(self, reason: str) -> CheckpointError:
        stored = self.stored
        return CheckpointError(
            f"{stored.file}: tensor {stored.name} of shape {stored.shape} does not fit the config: {reason}",
            file=stored.file,
            tensor=stored.name,
        )


def _coalesce(loops: Axis) -> Axis:
    """Joins neighbouring loops that together step evenly."""
    joined: list[tuple[int, int]] = []
    for size, stride in loops:
        if size == 1 and len(loops) > 1:
            continue
        if joined and joined[-1][1] == size * stride:
            joined[-1] = (joined[-1][0] * size, stride)
        else:
            joined.append((size, stride))
    return tuple(joined) or ((1, 1),)

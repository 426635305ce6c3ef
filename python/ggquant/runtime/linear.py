"""Weight matrices at work: one small function is the matrix product of the whole runtime."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ggquant.errors import ShapeError
from ggquant.product import Activations, matmul
from ggquant.runtime import ops
from ggquant.runtime.ops import Floats
from ggquant.runtime.side_by_side import Halted
from ggquant.tensor import QuantizedTensor

Weight: TypeAlias = npt.NDArray[Any] | QuantizedTensor
"""A weight `[rows, K]`, or `[experts, rows, K]`: float32, float16, bfloat16, or blocks."""

Hook: TypeAlias = Callable[[str, Floats, npt.NDArray[np.int32] | None], object]
"""Called with the input of every weight matrix: `hook(name, x, ids)`.

`name` is the weight's GGUF name (`blk.0.attn_q.weight`), `x` its input [tokens, K], which must not be changed. Weights
that share an input get the same array object, one call after another. For a stack of experts
(`blk.0.ffn_up_exps.weight`) there is one call for each expert that has tokens,
with the rows of that expert alone; `ids` [tokens] then holds the expert's number in every place, and is None otherwise.
"""


class _Rounded(threading.local):
    """The last activations that were rounded, each thread's own: where from, to what type, and the result."""

    def __init__(self) -> None:
        self.last: tuple[Floats, str, Floats] | None = None


class _Room(threading.local):
    """Where each thread's last result lies."""

    def __init__(self) -> None:
        self.result: Floats | None = None


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How matrix products are computed.

    Attributes:
        activations: "float32", or "int8" to round activations as llama.cpp does on a CPU: to 8 bits for weights in
            blocks, to the weights' own type for float16 and bfloat16, and keys and values to the float16 of its cache.
        threads: number of threads, None for one per core.
        halt: set while products are to be given up, see `ggquant.runtime.side_by_side`.
    """

    activations: Activations = "float32"
    threads: int | None = None
    halt: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    _rounded: _Rounded = field(default_factory=_Rounded, repr=False, compare=False)

    @property
    def rounds(self) -> bool:
        """Whether activations are rounded."""
        return self.activations == "int8"

    def input(self, weight: Weight, x: Floats) -> Floats:
        """The activations `x` as they meet `weight`; quantizing them to blocks is left to the product."""
        kind = _halves(weight) if self.rounds else None
        if kind is None:
            return x
        # Queries, keys and values share an input, as gate and up do.
        last = self._rounded.last
        if last is None or last[0] is not x or last[1] != kind:
            last = self._rounded.last = (x, kind, ops.rounded(x, kind, self.threads))
        return last[2]


def _halves(weight: Weight) -> str | None:
    """The name of the type of weights that are 16-bit floats."""
    kind = weight.format if isinstance(weight, QuantizedTensor) else _HALVES.get(weight.dtype.name)
    return kind if kind in _HALVES.values() else None


_HALVES = {"float16": "F16", "bfloat16": "BF16"}


def product(weight: Weight, x: Floats, how: Arithmetic, out: Floats | None = None) -> Floats:
    """`x @ weight.T` for x [tokens, K] and weight [rows, K]; a row of the result depends on its own row of x alone.

    Raises:
        Halted: `how.halt` is set.
    """
    if how.halt.is_set():
        raise Halted
    return matmul(weight, how.input(weight, x), activations=how.activations, out=out, threads=how.threads)


class Linear:
    """A weight matrix with its bias."""

    def __init__(self, name: str, weight: Weight, bias: Floats | None, how: Arithmetic) -> None:
        if len(weight.shape) != 2:
            raise ShapeError(f"tensor '{name}' has shape {weight.shape}; a matrix is expected", tensor=name)
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ShapeError(f"the bias of '{name}' has shape {bias.shape}, not {weight.shape[:1]}", tensor=name)
        self.name = name
        self.weight = weight
        self.bias = bias
        self._how = how
        self._room = _Room()

    @property
    def rows(self) -> int:
        """Length of a result."""
        return int(self.weight.shape[0])

    @property
    def columns(self) -> int:
        """Length of an input."""
        return int(self.weight.shape[1])

    def __call__(self, x: Floats, hook: Hook | None, *, reuse: bool = False) -> Floats:
        """The product for rows `x` [tokens, K].

        Args:
            x: the rows.
            hook: gets them first.
            reuse: whether the result may lie where the last one of this thread lay. Fresh memory of some megabytes
                costs as much as a tenth of the product.

        Returns:
            An array [tokens, rows].
        """
        if x.shape[1] != self.columns:
            raise ShapeError(
                f"tensor '{self.name}' has rows of {self.columns} weights, but its input has {x.shape[1]}",
                tensor=self.name,
            )
        if hook is not None:
            hook(self.name, x, None)
        old = self._room.result
        y = product(self.weight, x, self._how, old if reuse and old is not None and len(old) == len(x) else None)
        self._room.result = y if reuse else None
        if self.bias is not None:
            y += self.bias
        return y


class ExpertStack:
    """The same matrix of every expert, with biases."""

    def __init__(self, name: str, weight: Weight, bias: Floats | None, how: Arithmetic) -> None:
        if len(weight.shape) != 3:
            raise ShapeError(f"tensor '{name}' has shape {weight.shape}; a stack of matrices is expected", tensor=name)
        if bias is not None and bias.shape != weight.shape[:2]:
            raise ShapeError(f"the bias of '{name}' has shape {bias.shape}, not {weight.shape[:2]}", tensor=name)
        self.name = name
        self.weight = weight
        self.bias = bias
        self._how = how

    def __call__(self, expert: int, x: Floats, hook: Hook | None) -> Floats:
        """The product of one expert's matrix for rows `x` [tokens, K]."""
        if hook is not None:
            hook(self.name, x, np.full(len(x), expert, np.int32))
        y = product(self.weight[expert], x, self._how)
        if self.bias is not None:
            y += self.bias[expert]
        return y

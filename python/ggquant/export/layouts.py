"""Codes, scales and zero points in the tensors of each layout.

The layouts are those that `ggquant.packed` reads; the names and shapes here are the same from the other side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ggquant import _native
from ggquant.errors import UnsupportedError
from ggquant.export.scheme import Layout, Scheme

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Codes:
    """A module's weights on grids: `scale * (code - zero)`.

    Attributes:
        codes: `[rows, columns]`, a byte each.
        scales: `[rows, groups]`, numbers that the layout's scale type holds.
        zeros: `[rows, groups]`.
        listed: the group of each input, where groups are not made of neighbours (act-order).
    """

    codes: Bytes
    scales: npt.NDArray[np.float32]
    zeros: Bytes
    listed: npt.NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One stored tensor of a module.

    Attributes:
        end: what its name ends with.
        dtype: safetensors' name of its type.
        shape: as stored.
        make: its data, from the module's codes.
    """

    end: str
    dtype: str
    shape: tuple[int, ...]
    make: Callable[[Codes], Bytes]


def scale_type(layout: Layout, stored: str) -> str:
    """The type of the scales: the GPTQ and AWQ layouts have halves, compressed-tensors the type of the weights."""
    return stored if layout == "compressed-tensors" else "F16"


def parts(layout: Layout, scheme: Scheme, rows: int, columns: int, scales: str, *, threads: int | None) -> list[Part]:
    """The tensors of a module of `rows` outputs and `columns` inputs, with scales of type `scales`."""
    bits, groups = scheme.bits, scheme.groups(columns)

    def words(codes: int) -> int:
        return -(-codes * bits // 32)

    def packed(kind: str) -> Callable[[Codes], Bytes]:
        return lambda made: _native.pack_codes(kind, _flat(made.codes), columns, bits, threads)

    def outputs(made: Codes, shift: int) -> Bytes:
        return _native.pack_codes("outputs", _flat(made.zeros - np.uint8(shift)), groups, bits, threads)

    def turned(made: Codes) -> Bytes:
        return float_bytes(made.scales.T, scales)

    if layout == "awq":

        def zeros(made: Codes) -> Bytes:
            return _native.pack_codes("awq", _flat(made.zeros), groups, bits, threads)

        return [
            Part("qweight", "I32", (columns, rows // 8), packed("awq")),
            Part("qzeros", "I32", (groups, rows // 8), zeros),
            Part("scales", scales, (groups, rows), turned),
        ]
    if layout == "compressed-tensors":
        made = [
            Part("weight_packed", "I32", (rows, words(columns)), packed("rows")),
            Part("weight_scale", scales, (rows, groups), lambda made: float_bytes(made.scales, scales)),
            Part("weight_shape", "I64", (2,), lambda made: _raw(np.array([rows, columns], "<i8"))),
        ]
        if not scheme.symmetric:
            shape = (words(rows), groups)
            made.append(Part("weight_zero_point", "I32", shape, lambda made: _turned(outputs(made, 0), groups)))
        return made
    less = 1 if layout == "gptq" else 0
    return [
        Part("qweight", "I32", (words(columns), rows), packed("inputs")),
        Part("qzeros", "I32", (groups, words(rows)), lambda made: outputs(made, less)),
        Part("scales", scales, (groups, rows), turned),
        Part("g_idx", "I32", (columns,), lambda made: _group_bytes(made, scheme, columns)),
    ]


def check_zeros(layout: Layout, module: str, made: Codes) -> None:
    """Raises UnsupportedError where the first version of the GPTQ format would have to store a zero point of 0."""
    if layout == "gptq" and not made.zeros.all():
        row, group = np.argwhere(made.zeros == 0)[0]
        raise UnsupportedError(
            f"module {module}: row {row}, group {group} has zero point 0, which the first version of the GPTQ format "
            "cannot store; write gptq_v2, or symmetric groups",
            tensor=module,
        )


def float_bytes(values: npt.NDArray[np.float32], dtype: str) -> Bytes:
    """The data of a tensor of F16, BF16 or F32."""
    kind = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32}[dtype]
    return _raw(np.ascontiguousarray(values).astype(kind))


def _group_bytes(made: Codes, scheme: Scheme, columns: int) -> Bytes:
    if made.listed is not None:
        return _raw(made.listed.astype("<i4"))
    return _raw((np.arange(columns) // scheme.group_len(columns)).astype("<i4"))


def _turned(words: Bytes, lines: int) -> Bytes:
    """A matrix of words with its axes exchanged."""
    return _raw(np.ascontiguousarray(words.view("<u4").reshape(lines, -1).T))


def _flat(array: Bytes) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1)


def _raw(array: npt.NDArray[np.generic]) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)

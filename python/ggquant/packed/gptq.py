"""GPTQ's layout, as AutoGPTQ, GPTQModel and AutoRound write it (arXiv:2210.17323; the layout is the packages' own).

With O outputs, I inputs, G groups and b bits: `qweight` I32 `[ceil(I * b / 32), O]` packs inputs, `qzeros` I32
`[G, ceil(O * b / 32)]` packs outputs, `scales` `[G, O]`, `g_idx` I32 `[I]`. The first version of the format stores zero
points less one, the second as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from ggquant.checkpoint_index import StoredTensor
from ggquant.errors import UnsupportedError
from ggquant.model import PackedMatrix
from ggquant.packed.parts import columns_view, group_list, line_view, uniform_field, within, wrong

#: What the names of a module's parts end with.
PARTS = ("qweight", "qzeros", "scales", "g_idx")

_FLOATS = ("F16", "BF16", "F32")


@dataclass(frozen=True, slots=True)
class GptqFacts:
    """What a configuration says about a checkpoint. What the data say counts more.

    Attributes:
        version: 1 or 2.
        bits: bits of a code, or None where it is not said.
        group_size: inputs of a group, -1 for whole rows, or None where it is not said.
        act_order: groups are not made of neighbours, so that `g_idx` is needed.
        symmetric: what the configuration says, if it does.
        odd_bits: whether codes of 5, 6 and 7 bits lie back to back, too (AutoRound; GPTQModel cuts them into planes).
    """

    version: int
    bits: int | None
    group_size: int | None
    act_order: bool
    symmetric: bool | None
    odd_bits: bool


def matrix(
    path: Path, module: str, parts: Mapping[str, StoredTensor], facts: GptqFacts, warnings: list[str]
) -> PackedMatrix:
    """Puts a module's parts together.

    Args:
        path: for messages.
        module: name of the module.
        parts: its tensors by the ends of their names; `g_idx` may be absent.
        facts: the configuration.
        warnings: gets a line where the data contradict the configuration.

    Raises:
        CheckpointError: the parts do not fit together, or the list of groups is needed and missing.
        UnsupportedError: a width that GPTQModel packs in planes.
    """
    qweight, qzeros, scales = parts["qweight"], parts["qzeros"], parts["scales"]
    for tensor, types in ((qweight, ("I32",)), (qzeros, ("I32",)), (scales, _FLOATS)):
        if tensor.dtype not in types or len(tensor.shape) != 2 or 0 in tensor.shape:
            raise wrong(tensor, f"a {tensor.dtype} tensor of shape {tensor.shape} is not part of a GPTQ module")
    groups, rows = scales.shape
    words, outputs = qweight.shape
    if outputs != rows or qzeros.shape[0] != groups:
        raise within(path, module, f"{qweight.shape}, {qzeros.shape} and {scales.shape} do not fit together")
    listed = parts.get("g_idx")
    inputs = listed.shape[0] if listed is not None else None
    bits = _bits(path, module, words, inputs, rows, qzeros.shape[1], facts.bits)
    if bits in (5, 6, 7) and not facts.odd_bits:
        raise UnsupportedError(f"{path}: module {module}: {bits}-bit codes in planes (gptq_p) are not read")
    columns = listed.shape[0] if listed is not None else 32 * words // bits
    group_len = _group_len(path, module, columns, groups, facts.group_size)
    scattered = listed is not None and group_list(listed, columns, groups, group_len)
    if listed is None and facts.act_order and groups > 1:
        raise within(path, module, "its weights are in act-order (desc_act), and the list of groups g_idx is missing")
    zero, less_one = _zero(module, uniform_field(qzeros, bits, rows), bits, facts, warnings)
    return PackedMatrix(
        scheme="GPTQ",
        rows=rows,
        columns=columns,
        coding="dense",
        bits=bits,
        codes=columns_view(qweight),
        scales=columns_view(scales),
        zero=zero,
        zeros=columns_view(qzeros) if zero is None else None,
        zero_less_one=less_one,
        group_len=group_len,
        listed=line_view(listed) if scattered and listed is not None else None,
    )


def _bits(
    path: Path, module: str, words: int, columns: int | None, rows: int, zero_words: int, stated: int | None
) -> int:
    """The width that makes both sides come out: mixed widths need no look at the configuration.

    Matrices of a few rows leave a choice; the width that the configuration has comes first.
    """
    first: tuple[int, ...] = () if stated is None else (stated,)
    for bits in (*first, 4, 8, 2, 3, 5, 6, 7, 1):
        fits = 32 * words % bits == 0 if columns is None else ceil(columns * bits / 32) == words
        if fits and ceil(rows * bits / 32) == zero_words:
            return bits
    raise within(path, module, "no width of codes fits the shapes of qweight and qzeros")


def _group_len(path: Path, module: str, columns: int, groups: int, stated: int | None) -> int:
    if groups == 1:
        return columns
    if stated is not None and stated > 0 and ceil(columns / stated) == groups:
        return stated
    if columns % groups == 0:
        return columns // groups
    raise within(path, module, f"{groups} groups do not divide {columns} inputs, and group_size {stated} does not fit")


def _zero(module: str, field: int | None, bits: int, facts: GptqFacts, warnings: list[str]) -> tuple[int | None, bool]:
    """The zero point of all groups, if there is one, and whether stored ones are less one."""
    first = facts.version == 1
    if field is None:
        return None, first
    middle = 1 << bits - 1
    # Where all are alike they are the middle: this tells the versions apart, whatever the configuration says.
    found = {middle - 1: True, middle: False}.get(field, first) if facts.symmetric is not False else first
    if found != first:
        kinds = {True: "gptq", False: "gptq_v2"}
        text = f"the zero points are those of {kinds[found]}, not of {kinds[first]} as the configuration has it"
        if text not in warnings:
            warnings.append(text)
    if found and field == (1 << bits) - 1:
        return None, True  # The engine says what is wrong with it, and where.
    return field + found, found

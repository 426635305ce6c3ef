"""AWQ's layout for matrix products ("GEMM"), as AutoAWQ, GPTQModel and AutoRound write it (arXiv:2306.00978).

4 bits. With O outputs, I inputs and G groups: `qweight` I32 `[I, O / 8]`, `qzeros` I32 `[G, O / 8]`, both with eight
outputs a word in an order of their own, `scales` `[G, O]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ggquant.checkpoint_index import StoredTensor
from ggquant.model import PackedMatrix
from ggquant.packed.parts import columns_view, uniform_field, within, wrong

#: What the names of a module's parts end with.
PARTS = ("qweight", "qzeros", "scales")

_FLOATS = ("F16", "BF16", "F32")


def looks_like_awq(parts: Mapping[str, StoredTensor]) -> bool:
    """Whether the shapes of a module's parts are AWQ's: eight outputs share a word of `qweight`."""
    qweight, scales = parts["qweight"].shape, parts["scales"].shape
    return len(qweight) == 2 and len(scales) == 2 and qweight[1] * 8 == scales[1] and qweight[0] % scales[0] == 0


def matrix(path: Path, module: str, parts: Mapping[str, StoredTensor]) -> PackedMatrix:
    """Puts a module's parts together.

    Raises:
        CheckpointError: they do not fit together.
    """
    qweight, qzeros, scales = parts["qweight"], parts["qzeros"], parts["scales"]
    for tensor, types in ((qweight, ("I32",)), (qzeros, ("I32",)), (scales, _FLOATS)):
        if tensor.dtype not in types or len(tensor.shape) != 2 or 0 in tensor.shape:
            raise wrong(tensor, f"a {tensor.dtype} tensor of shape {tensor.shape} is not part of an AWQ module")
    groups, rows = scales.shape
    columns = qweight.shape[0]
    if qweight.shape[1] * 8 != rows or qzeros.shape != (groups, rows // 8) or columns % groups:
        raise within(
            path, module, f"{qweight.shape}, {qzeros.shape} and {scales.shape} are not the parts of a 4-bit AWQ module"
        )
    zero = uniform_field(qzeros, 4, rows)
    return PackedMatrix(
        scheme="AWQ",
        rows=rows,
        columns=columns,
        coding="awq",
        bits=4,
        codes=columns_view(qweight),
        scales=columns_view(scales),
        zero=zero,
        zeros=columns_view(qzeros) if zero is None else None,
        zero_coding="awq",
        group_len=columns // groups,
    )

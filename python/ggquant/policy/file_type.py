"""`general.file_type` of a file whose tensors are copied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from .table import VARIANTS
from .tensors import order_key

__all__ = ["GUESSED", "copied_file_type"]

GUESSED = 1024
"""Added to a file type that is not stated but guessed from the tensors."""

# k-quant mixes are taken for the middle one; formats that are missing are taken for F32, as there.
_BY_FORMAT: Mapping[str, str] = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
_NAMES = """
    F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q6_K TQ1_0 TQ2_0 IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ1_S IQ1_M
    IQ4_NL IQ4_XS IQ3_S Q1_0 Q2_0
"""
_LIKE_THEIR_FORMAT = frozenset(_NAMES.split())
_NVFP4 = 39  # a file type that no variant makes


def copied_file_type(stated: int | None, tensors: Iterable[tuple[str, str]]) -> int:
    """The file type that COPY writes: the one stated in the source, else a guess from its (name, type) pairs.

    The guess follows the commonest type; of several, the first to reach the number in a file's order.
    """
    if stated is not None:
        return stated
    counts: Counter[str] = Counter()
    commonest, most = "F32", 0
    for _, dtype in sorted(tensors, key=lambda t: order_key(t[0])):
        counts[dtype] += 1
        if counts[dtype] > most:
            commonest, most = dtype, counts[dtype]
    if commonest == "NVFP4":
        return GUESSED | _NVFP4
    name = _BY_FORMAT.get(commonest, commonest if commonest in _LIKE_THEIR_FORMAT else "F32")
    return GUESSED | VARIANTS[name].file_type

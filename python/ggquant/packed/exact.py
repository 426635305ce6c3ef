"""Packed checkpoints into GGUF files that hold the very codes and scales."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ggquant.errors import UnsupportedError
from ggquant.model import SourceTensor
from ggquant.overrides import TensorType
from ggquant.packed.act_order import folds
from ggquant.packed.transcode import Transcoding, transcoding
from ggquant.pipeline import convert
from ggquant.progress import Progress
from ggquant.sources import load_model

#: In the order of their size.
_PREFERRED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")


def exact_format(tensor: SourceTensor, scattered: str = "") -> tuple[str, Transcoding] | None:
    """The smallest format that holds the codes of packed weights; None for other tensors.

    A format that rounds minima is taken only where no other holds the codes. `scattered` says why inputs in act-order
    cannot change places.

    Raises:
        UnsupportedError: no format holds them, with the reason.
    """
    kinds = ((format, transcoding(tensor, format, scattered=scattered)) for format in _PREFERRED)
    found = [(format, kept) for format, kept in kinds if kept is not None]
    if not found:
        return None
    for kind in ("exact", "exact but for the minimum"):
        for format, kept in found:
            if kept.kind == kind:
                return format, kept
    reasons = "; ".join(dict.fromkeys(kept.reason for _, kept in found))
    raise UnsupportedError(
        f"tensor '{tensor.name}': no format holds its codes: {reasons}; `ggquant quantize` encodes the values",
        tensor=tensor.name,
    )


def transcode_to_gguf(
    src: Path,
    dst: Path,
    *,
    pre: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], object] | None = None,
) -> dict[str, str]:
    """Writes a packed checkpoint as a GGUF file: codes and scales as they are, everything else in float32.

    Returns:
        For each packed tensor, whether it is "exact" or "exact but for the minimum: ...".

    Raises:
        UnsupportedError: there are no packed weights, or some whose codes no format holds.
        Other errors of `ggquant.convert`.
    """
    kinds: dict[str, str] = {}
    recipe: list[TensorType] = []
    model = load_model(src, pre=pre)
    folded, reasons = folds(model)
    for tensor in model.tensors:
        fold = folded.get(tensor.name)
        chosen = exact_format(tensor if fold is None else fold.matrix, reasons.get(tensor.name, ""))
        if chosen is not None:
            kinds[tensor.name] = str(chosen[1])
            recipe.append(TensorType(f"^{re.escape(tensor.name)}$", chosen[0]))
    if not kinds:
        raise UnsupportedError(f"{src}: no packed weights; `ggquant quantize` encodes others", file=str(src))
    convert(src, dst, "F32", pre=pre, threads=threads, overwrite=overwrite, progress=progress, recipe=recipe)
    return kinds

"""What solving a model takes, from headers: memory, disk space, time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ggquant.errors import UsageError
from ggquant.layerwise.fisher import ROW_LIMIT
from ggquant.runtime.memory import BASE_BYTES, free_bytes, free_disk_bytes, requirements
from ggquant.runtime.model import RunnableModel

if TYPE_CHECKING:
    from ggquant.layerwise.options import LayerwiseOptions

#: Inputs of a layer of the original model are kept while its weights are solved if they take no more bytes than this.
KEPT_BYTES = 2 << 30

#: Bytes for each entry of a Hessian: sums and products of the moments (20), its copy for the solver (4), the matrix
#: that is factored in float64 (8), and the factor in float32 (4).
_HESSIAN_ENTRY = 36


@dataclass(frozen=True)
class Needs:
    """What solving a model takes.

    Attributes:
        chunks, context: size of the calibration text.
        memory_bytes: memory at the peak, about.
        disk_bytes: room on the output's disk: for the output, and for solved tensors until it is written.
        hessian_bytes: room for a file of Hessians that is to be made, at most.
        seconds: time, about.
    """

    chunks: int
    context: int
    memory_bytes: int
    disk_bytes: int
    hessian_bytes: int
    seconds: float

    @classmethod
    def of(
        cls,
        model: RunnableModel,
        tokens: npt.NDArray[np.int64],
        formats: Mapping[str, str],
        options: LayerwiseOptions,
        *,
        seconds: float,
        disk_bytes: int,
        hessian_bytes: int,
    ) -> Needs:
        """Those of a model, a text [n_chunks, n_ctx] and formats of weights; memory is reckoned from headers."""
        chunks, context = tokens.shape
        memory = memory_needs(model, chunks, context, formats, options)
        return cls(chunks, context, memory, disk_bytes, hessian_bytes, seconds)

    def check(self, source: str, folder: Path) -> None:
        """Refuses what the machine has no room for.

        Args:
            source: the model, for the message.
            folder: where the output goes.

        Raises:
            UsageError: less memory or disk space is free than needed.
        """
        free = free_bytes()
        if self.memory_bytes > free:
            raise UsageError(
                f"{source}: solving it takes about {self.memory_bytes / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB "
                "are free; use fewer --chunks, or --effort fast",
                file=source,
            )
        room = free_disk_bytes(folder)
        if self.disk_bytes > room:
            raise UsageError(
                f"{folder}: the output and what is kept until it is written take {self.disk_bytes / 1e9:.2f} GB of "
                f"disk space, and {room / 1e9:.2f} GB are free",
                file=str(folder),
            )


def memory_needs(
    model: RunnableModel, n_chunks: int, n_ctx: int, formats: Mapping[str, str], options: LayerwiseOptions
) -> int:
    """Bytes at the peak, about.

    Args:
        model: the model as it was.
        n_chunks, n_ctx: size of the calibration text.
        formats: block format of each weight that is to be solved.
        options: how.
    """
    run = requirements(model, n_chunks, n_ctx, logits=True)
    shapes = [model.tensor(name).shape for name in formats]
    # A stack of experts has a Hessian for each of them, all at the same time.
    hessian = max((shape[-1] ** 2 * (shape[0] if len(shape) == 3 else 1) for shape in shapes), default=0)
    kept, states = (KEPT_BYTES, 2) if options.corrects else (0, 1)
    columns = sum(t.shape[-1] for t in model.block_tensors(0) if len(t.shape) == 2) if model.n_layer else 0
    total = BASE_BYTES + states * run.hidden_bytes + 2 * run.block_bytes + run.working_bytes + _HESSIAN_ENTRY * hessian
    total += min(kept, 4 * n_chunks * n_ctx * columns) + run.output_bytes
    if options.awq:
        # The search for scales looks at all inputs of a layer at once.
        total += 8 * sum(shape[-1] ** 2 * (shape[0] if len(shape) == 3 else 1) for shape in _inputs(model, formats))
    if options.fisher and options.gptq:
        total += sum(_gram_bytes(model, name) for name in formats)
        # Inputs of all layers for one group of chunks, and scores of attention with their gradients.
        total += (model.n_layer + 8) * run.working_bytes + 12 * model.hyper.heads(0) * max(2048, n_ctx) * n_ctx
    return total


def _inputs(model: RunnableModel, formats: Mapping[str, str]) -> list[tuple[int, ...]]:
    """Shapes of a layer's weights that are to be solved."""
    return [tensor.shape for tensor in model.block_tensors(0) if tensor.name in formats] if model.n_layer else []


def _gram_bytes(model: RunnableModel, name: str) -> int:
    """Second moments of the gradients at a weight's output."""
    rows = model.tensor(name).shape[-2]
    if name == model.output_name:
        return 0
    if name == "token_embd.weight":
        return 8 * model.hidden_size**2
    return 8 * (rows // ROW_LIMIT * ROW_LIMIT**2 + (rows % ROW_LIMIT) ** 2)

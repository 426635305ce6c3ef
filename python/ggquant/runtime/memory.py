"""What running a model takes: bytes and seconds, from headers and one small measurement."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ggquant.errors import FileError, UsageError
from ggquant.model import SourceTensor
from ggquant.registry import format_info
from ggquant.runtime.block import GROUP_TOKENS
from ggquant.runtime.linear import Arithmetic, product
from ggquant.runtime.model import RunnableModel
from ggquant.runtime.side_by_side import at_once

#: Without a budget, hidden states take at most this share of the memory that is free.
_SHARE_OF_FREE = 0.5

#: What the interpreter, its modules and the tables of a tokenizer take.
BASE_BYTES = 150_000_000


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a run over chunks of tokens takes.

    Attributes:
        block_bytes: the largest layer's weights, as they are stored.
        working_bytes: what lies between the matrices, for the tokens that are worked on at a time.
        output_bytes: the output matrix and the logits of the chunks that are worked on at a time; 0 where none are
            computed.
        hidden_bytes: hidden states of all chunks.
        hidden_limit: most bytes of hidden states to keep in memory; more go to a file.
        seconds: about how long the run will take.
    """

    block_bytes: int
    working_bytes: int
    output_bytes: int
    hidden_bytes: int
    hidden_limit: int
    seconds: float

    @property
    def spills(self) -> bool:
        """Whether the hidden states go to a file."""
        return self.hidden_bytes > self.hidden_limit

    @property
    def memory_bytes(self) -> int:
        """Memory at the peak, about."""
        hidden = 0 if self.spills else self.hidden_bytes
        return BASE_BYTES + hidden + max(self.block_bytes + self.working_bytes, self.output_bytes)


def requirements(
    model: RunnableModel, n_chunks: int, n_ctx: int, *, logits: bool, budget: int | None = None, copies: int = 1
) -> Requirements:
    """What `n_chunks` chunks of `n_ctx` tokens will take.

    Args:
        model: the model.
        n_chunks, n_ctx: size of the text.
        logits: whether the output matrix is used.
        budget: most bytes of memory; None to take what is free.
        copies: how many sets of hidden states are kept.

    Raises:
        UsageError: the budget is too small for any run; the message says what is needed.
    """
    layers = [model.block_tensors(layer) for layer in range(model.n_layer)]
    block = max((sum(map(_stored_bytes, tensors)) for tensors in layers), default=0)
    # While a stack of views is put together, one tensor may be there twice.
    block += max((_stored_bytes(tensor) for tensors in layers for tensor in tensors), default=0)
    step = max(1, GROUP_TOKENS // n_ctx)
    parts = min(at_once(model.threads), -(-n_chunks // step))
    tokens = parts * min(step, n_chunks) * n_ctx
    widths = sum(sum(_rows(tensor) for tensor in tensors) for tensors in layers[:1])
    working = 4 * tokens * (widths + 6 * model.hidden_size)
    head = model.tensor(model.output_name)
    chunks = min(at_once(model.threads), n_chunks)
    output = _stored_bytes(head) + 4 * chunks * n_ctx * model.n_vocab if logits else 0
    hidden = 4 * n_chunks * n_ctx * model.hidden_size * copies
    least = BASE_BYTES + max(block + working, output)
    if budget is None:
        limit = int(_SHARE_OF_FREE * free_bytes())
    elif budget < least:
        raise UsageError(
            f"{model.path}: needs {_megabytes(least)} MB of memory ({_megabytes(block)} MB for a layer), "
            f"and {_megabytes(budget)} MB are allowed"
        )
    else:
        limit = budget - least
    # Norms, attention and what else is no product of matrices take about as long again.
    work = sum(2 * active_weights(tensor, model) for tensors in layers for tensor in tensors)
    work += 2 * prod(head.shape) if logits else 0
    return Requirements(block, working, output, hidden, limit, 2 * work * n_chunks * n_ctx / work_rate(model))


def work_rate(model: RunnableModel) -> float:
    """Floating-point operations a second of a float32 product of matrices, here and now."""
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((512, 512), np.float32), rng.standard_normal((512, 512), np.float32)
    how = Arithmetic(threads=model.threads)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        product(weight, x, how)
        best = min(best, time.perf_counter() - start)
    return 2 * 512**3 / best


def _stored_bytes(tensor: SourceTensor) -> int:
    columns = tensor.shape[-1] if tensor.shape else 1
    row_bytes = format_info(tensor.dtype).row_bytes(columns) or 4 * columns
    return tensor.elements // max(columns, 1) * row_bytes


def _rows(tensor: SourceTensor) -> int:
    return tensor.shape[-2] if len(tensor.shape) >= 2 else 0


def active_weights(tensor: SourceTensor, model: RunnableModel) -> float:
    """Weights of a tensor that a token meets."""
    if len(tensor.shape) < 2:
        return 0.0
    if len(tensor.shape) == 2:
        return prod(tensor.shape)
    return prod(tensor.shape[1:]) * min(model.hyper.size("expert_used_count", tensor.shape[0]), tensor.shape[0])


def free_bytes() -> int:
    """Memory that is free, or can be made free, in bytes; a guess where the system does not say."""
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 4_000_000_000


def free_disk_bytes(folder: Path) -> int:
    """Room on the disk of a folder, which need not be there yet.

    Raises:
        FileError: the system does not say.
    """
    place = folder.absolute()
    there = next((each for each in (place, *place.parents) if each.exists()), place)
    try:
        return shutil.disk_usage(there).free
    except OSError as error:
        raise FileError(f"{there}: {error.strerror}", file=str(there), errno=error.errno) from error


def _megabytes(count: int) -> int:
    return -(-count // 1_000_000)

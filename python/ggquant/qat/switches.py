"""What a training loop may switch on a prepared model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ggquant.policy import Decision
from ggquant.qat.prepare import control_of


def describe(model: torch.nn.Module) -> list[Decision]:
    """Every tensor of the GGUF file with its format and the reason for it, in the file's order."""
    return list(control_of(model).layout.decisions)


@contextmanager
def disabled(model: torch.nn.Module) -> Iterator[None]:
    """Runs the model on its unquantized weights within the `with` block."""
    with control_of(model).off():
        yield


def freeze_scales(model: torch.nn.Module, frozen: bool = True) -> None:
    """Keeps the scales of the last search for good: from now on only codes follow the weights."""
    control_of(model).scales_frozen = frozen


def freeze_codes(model: torch.nn.Module, frozen: bool = True) -> None:
    """Keeps the quantized weights as they are, for a training of what is not quantized (norms, biases).

    The optimizer must leave quantized weights alone then: forward stops at one that has changed.
    """
    control_of(model).codes_frozen = frozen

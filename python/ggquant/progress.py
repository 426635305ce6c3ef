"""What callers hear while work goes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a conversion stands.

    Attributes:
        tensor: name of the tensor that was last written to.
        format: its format in the output.
        tensors_done, tensors_total: counts of tensors.
        bytes_done, bytes_total: bytes read from the source.
        seconds: time since the start.
    """

    tensor: str
    format: str
    tensors_done: int
    tensors_total: int
    bytes_done: int
    bytes_total: int
    seconds: float

"""A conversion as planned: every decision, made from headers alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ggquant.metadata import Metadata


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor of the output file.

    Attributes:
        name: its name.
        shape: shape with rows first.
        source: type it is read as.
        wanted: format the variant asks for.
        format: format it will have.
        nbytes: bytes of its encoded data.
        why: the reason for the format, in a few words.
        fallback: why `format` is not `wanted`, or None.
        imatrix: whether an importance matrix guides its encoding.
        transcoding: of packed weights, whether codes and scales are kept ("exact", "exact but for the minimum: ...") or
            the values are encoded anew ("re-quantized: ..."); None for others.
    """

    name: str
    shape: tuple[int, ...]
    source: str
    wanted: str
    format: str
    nbytes: int
    why: str
    fallback: str | None
    imatrix: bool
    transcoding: str | None = None


@dataclass
class Plan:
    """Every decision of a conversion, made from headers alone.

    Attributes:
        source: what was planned for.
        variant: name of the variant.
        tensors: the output's tensors, in its order.
        metadata: the output's metadata.
        warnings: what the user should know before starting.
    """

    source: str
    variant: str
    tensors: list[PlannedTensor]
    metadata: Metadata
    warnings: list[str]

    @property
    def tensor_bytes(self) -> int:
        """Bytes of tensor data, without headers and padding."""
        return sum(t.nbytes for t in self.tensors)

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(prod(t.shape) for t in self.tensors)

    @property
    def total_bytes(self) -> int:
        """Bytes of tensor data: the size of the file to within its header."""
        return self.tensor_bytes

    @property
    def bits_per_weight(self) -> float:
        """Mean stored bits per weight over all tensors."""
        return 8 * self.tensor_bytes / self.weights if self.weights else 0.0

    @property
    def fallbacks(self) -> list[PlannedTensor]:
        """Tensors that do not get the format the variant asks for."""
        return [t for t in self.tensors if t.fallback is not None]

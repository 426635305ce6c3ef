"""What is known before a weight is read: where each tensor comes from, what becomes of it, and where it will lie."""

from __future__ import annotations

from dataclasses import dataclass, field

from ggquant.metadata import Metadata


@dataclass(frozen=True, slots=True)
class View:
    """A strided window on a tensor's data in a file.

    Attributes:
        file: path of the file.
        offset: byte offset of the tensor's data in the file.
        dtype: stored type: a safetensors name (`F32`, `BF16`, `F8_E4M3`, ...) or a GGUF format (`Q4_K`).
        shape: shape of the window, rows first.
        strides: step of each axis in elements, as numpy's but not in bytes.
        start: first element of the window.

    Data in a block format can only be windowed by whole, contiguous rows.
    """

    file: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int = 0


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor of the model before a format is chosen for it.

    Attributes:
        name: its name in the GGUF file.
        shape: shape with rows first, the reverse of ggml's order.
        dtype: the type it has in the unquantized file: what it keeps if it is not quantized, and what its values are rounded
            to before they are.
        views: windows that, laid one after the other along the first axis, are the tensor.
        ops: elementwise operations, in order: `("add", c)`, `("mul", c)`, `("neg_exp", 0.0)`.
        inline: the data themselves, for small computed tensors that have no views.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    views: tuple[View, ...] = ()
    ops: tuple[tuple[str, float], ...] = ()
    inline: bytes | None = None


@dataclass
class Model:
    """A model as read from its headers.

    Attributes:
        arch: `general.architecture`.
        metadata: metadata of the unquantized GGUF file.
        tensors: its tensors, in its order.
        inputs: the files it is read from, for the check that none of them is written to.
        warnings: what the user should know.
    """

    arch: str
    metadata: Metadata
    tensors: list[SourceTensor]
    inputs: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


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
        total = 0
        for t in self.tensors:
            count = 1
            for n in t.shape:
                count *= n
            total += count
        return total

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

"""Exceptions. Each says which file and which tensor it is about, and what to do."""

from __future__ import annotations


class Error(Exception):
    """Base of everything ggquant raises on purpose.

    Attributes:
        file: path of the file concerned, or None.
        tensor: name of the tensor concerned, or None.
    """

    def __init__(
        self, message: str, *, file: str | None = None, tensor: str | None = None, errno: int | None = None
    ) -> None:
        super().__init__(message)
        self.file = file
        self.tensor = tensor
        self.errno = errno

    def __reduce__(self) -> tuple[object, ...]:
        state = {"file": self.file, "tensor": self.tensor, "errno": self.errno}
        return (type(self), (str(self),), state)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UsageError(Error, ValueError):
    """The call or command cannot be right: an unknown name, options that contradict each other."""


class ShapeError(Error, ValueError):
    """A shape does not fit: a row that is not a whole number of blocks, data of the wrong length."""


class DTypeError(Error, TypeError):
    """Weights of a type that cannot be encoded; convert them to float32, float16 or bfloat16."""


class NonFiniteError(Error, ValueError):
    """A weight is NaN or infinite. The message names row and column."""


class ImatrixError(Error, ValueError):
    """An importance matrix is missing where one is needed, or does not fit the model."""


class InvalidBlockError(Error, ValueError):
    """Encoded data that cannot be right, such as an infinite scale."""


class MalformedFileError(Error, ValueError):
    """A file breaks its own format: truncated, damaged or hostile."""


class UnsupportedError(Error):
    """A well-formed input that this version does not handle; the message says what to do instead."""


class CheckpointError(Error, ValueError):
    """A checkpoint is incomplete or contradicts itself: a missing shard, a missing tensor, a wrong shape."""


class FileError(Error, OSError):
    """The operating system refused to read or write a file; `errno` holds its number."""


class StoppedError(Error):
    """The work was stopped by its caller."""


class InternalError(Error):
    """A defect in ggquant. Please report it."""

"""Files of a model's predictions, as `llama-perplexity --kl-divergence-base` writes and reads them.

Little-endian: `_logits_`, n_ctx, n_vocab, n_chunk as 32-bit numbers, the tokens of all chunks as such, and for each
chunk a packed row of logits (see `rust/core/stats/logits.rs`) for each scored token.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ggquant.errors import FileError, MalformedFileError
from ggquant.evaluation.states import scored_tokens
from ggquant.text_files import refuse_existing
from ggquant.whole_file import replaced

_MAGIC = b"_logits_"
_HEADER = struct.Struct("<8sIii")


def packed_len(n_vocab: int) -> int:
    """16-bit numbers in a packed row."""
    return 4 + (n_vocab + 1) // 2 * 2


class LogitsFile:
    """An open file of predictions.

    Attributes:
        path: where it is.
        n_ctx, n_vocab, n_chunk: tokens in a chunk, tokens in the vocabulary, chunks.
        tokens: [n_chunk, n_ctx] ids.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Reads the header and the tokens.

        Raises:
            FileError: the file cannot be read.
            MalformedFileError: it is no such file, or is cut short.
        """
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                header = file.read(_HEADER.size)
                size = os.fstat(file.fileno()).st_size
                if len(header) < _HEADER.size or not header.startswith(_MAGIC):
                    raise self._malformed("it holds no predictions such as --save-logits writes")
                _, self.n_ctx, self.n_vocab, self.n_chunk = _HEADER.unpack(header)
                if min(self.n_ctx, self.n_vocab, self.n_chunk) < 1:
                    raise self._malformed(f"{self.n_chunk} chunks of {self.n_ctx} tokens, {self.n_vocab} in all")
                tokens = 4 * self.n_ctx * self.n_chunk
                wanted = _HEADER.size + tokens + self.n_chunk * self._chunk_bytes
                if size < wanted:
                    raise self._malformed(f"{size} bytes where its header asks for {wanted}; it is cut short")
                ids = np.frombuffer(file.read(tokens), "<i4")
        except OSError as e:
            raise FileError(
                f"{self.path}: cannot read the predictions: {e.strerror}", file=str(self.path), errno=e.errno
            ) from None
        if ids.min() < 0 or ids.max() >= self.n_vocab:
            raise self._malformed("a token is outside of the vocabulary")
        self.tokens = ids.reshape(self.n_chunk, self.n_ctx).astype(np.int64)

    def chunks(self) -> Iterator[npt.NDArray[np.uint16]]:
        """The packed rows of every chunk, see `chunk`."""
        return map(self.chunk, range(self.n_chunk))

    def chunk(self, number: int) -> npt.NDArray[np.uint16]:
        """The packed rows of a chunk, flat.

        Raises:
            FileError, MalformedFileError: the file cannot be read any more.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(_HEADER.size + 4 * self.n_ctx * self.n_chunk + number * self._chunk_bytes)
                data = file.read(self._chunk_bytes)
        except OSError as e:
            raise FileError(
                f"{self.path}: cannot read the predictions: {e.strerror}", file=str(self.path), errno=e.errno
            ) from None
        if len(data) < self._chunk_bytes:
            raise self._malformed("it has become shorter")
        return np.frombuffer(data, "<u2").astype(np.uint16, copy=False)

    @property
    def _chunk_bytes(self) -> int:
        return 2 * packed_len(self.n_vocab) * scored_tokens(self.n_ctx)

    def _malformed(self, what: str) -> MalformedFileError:
        return MalformedFileError(f"{self.path}: {what}", file=str(self.path))


class LogitsWriter:
    """Appends to such a file."""

    def __init__(self, file: IO[bytes], tokens: npt.NDArray[np.integer[Any]], n_vocab: int) -> None:
        self._file = file
        chunks, n_ctx = tokens.shape
        file.write(_HEADER.pack(_MAGIC, n_ctx, n_vocab, chunks))
        file.write(np.ascontiguousarray(tokens, "<i4").tobytes())

    def add(self, packed: npt.NDArray[np.uint16]) -> None:
        """Appends the packed rows of the next chunk."""
        self._file.write(np.ascontiguousarray(packed, "<u2").tobytes())


@contextmanager
def writing_logits(
    path: str | os.PathLike[str], tokens: npt.NDArray[np.integer[Any]], n_vocab: int, *, overwrite: bool
) -> Iterator[LogitsWriter]:
    """Writes a file of predictions, which has its name once the `with` block has ended well.

    Args:
        path: where it goes.
        tokens: [n_chunk, n_ctx] ids of the text.
        n_vocab: tokens in the vocabulary.
        overwrite: replace an existing file.

    Raises:
        FileError: the folder cannot be written, or the file exists and `overwrite` is not set.
    """
    refuse_existing(Path(path), overwrite=overwrite)
    with replaced(Path(path)) as file:
        yield LogitsWriter(file, tokens, n_vocab)

"""JSON files of a download, read with limits: size, depth and kind are checked before anything uses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ggquant.errors import FileError, MalformedFileError

MAX_CONFIG_BYTES = 64 << 20
MAX_TOKENIZER_BYTES = 512 << 20
MAX_DEPTH = 128


def read_text(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> str:
    """The file's text.

    Raises:
        FileError: the file cannot be read.
        MalformedFileError: it is larger than `max_bytes`, or not UTF-8.
    """
    return decode(read_bytes(path, max_bytes), path)


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """The file's bytes, at most `max_bytes` of them; errors as in `read_text`."""
    try:
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}", file=str(path), errno=error.errno) from error
    if len(data) > max_bytes:
        raise MalformedFileError(f"{path}: larger than the {max_bytes >> 20} MiB allowed", file=str(path))
    return data


def decode(data: bytes, path: Path) -> str:
    """UTF-8 text of `data`, which came from `path`."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedFileError(f"{path}: not UTF-8 at byte {error.start}", file=str(path)) from error


def parse_object(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in `data`.

    Raises:
        MalformedFileError: not JSON, not an object, or nested deeper than `MAX_DEPTH`.
    """
    value = _parse(data, path)
    if not isinstance(value, dict):
        raise MalformedFileError(f"{path}: expected a JSON object", file=str(path))
    return value


def read_list(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> list[Any]:
    """The JSON array in a file; errors as in `read_text` and `parse_object`."""
    value = _parse(read_bytes(path, max_bytes), path)
    if not isinstance(value, list):
        raise MalformedFileError(f"{path}: expected a JSON array", file=str(path))
    return value


def read_object(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The JSON object in a file; errors as in `read_text` and `parse_object`."""
    return parse_object(read_bytes(path, max_bytes), path)


def _parse(data: bytes, path: Path) -> Any:
    text = decode(data, path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        message = f"{path}: not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        raise MalformedFileError(message, file=str(path)) from error
    except (RecursionError, ValueError) as error:  # ValueError: an integer with thousands of digits
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise MalformedFileError(f"{path}: {reason}", file=str(path)) from error
    if _deeper_than(value, MAX_DEPTH):
        raise MalformedFileError(f"{path}: nested deeper than {MAX_DEPTH} levels", file=str(path))
    return value


def _deeper_than(value: object, limit: int) -> bool:
    level: list[object] = [value]
    for _ in range(limit):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True

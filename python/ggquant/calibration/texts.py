"""Calibration texts: plain files, JSON lines, folders of them, and the one that ships with the package."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggquant.errors import FileError, UsageError

if TYPE_CHECKING:
    import os

_LINES = (".jsonl", ".ndjson")
_PLAIN = (".txt", ".md", ".text", ".raw")


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """A text and where it is from.

    Attributes:
        text: all of it.
        names: the files, as given.
        has_special: whether it holds special tokens as text, since chat templates write them.
    """

    text: str
    names: tuple[str, ...]
    has_special: bool = False


def default_text() -> CalibrationText:
    """The text that ships with the package: novels in the public domain, and some of this project's code."""
    resource = files("ggquant.calibration").joinpath("default.txt")
    return CalibrationText(resource.read_text("utf-8"), ("ggquant:default.txt",))


def read_texts(sources: Sequence[str | os.PathLike[str]], metadata: Mapping[str, Any] | None = None) -> CalibrationText:
    """Reads calibration texts.

    Args:
        sources: files, or folders whose text files are taken in order of their names. A `.jsonl` file holds objects
            with `text`, or with `messages` that go through the model's chat template; all else is plain UTF-8 text.
        metadata: the model's, for its chat template and the special tokens in it.

    Raises:
        FileError: a file cannot be read.
        UsageError: nothing to read, text that is not UTF-8, or a line that is not as described.
    """
    parts: list[str] = []
    special = False
    names: list[str] = []
    for path in _expanded(sources):
        names.append(str(path))
        text = _read(path)
        if path.suffix in _LINES:
            for part, templated in _records(path, text, metadata or {}):
                parts.append(part)
                special |= templated
        else:
            # llama-imatrix drops one line break at the end of the file.
            parts.append(text.removesuffix("\n"))
    return CalibrationText("\n".join(parts), tuple(names), special)


def _expanded(sources: Sequence[str | os.PathLike[str]]) -> Iterator[Path]:
    for source in sources:
        path = Path(source)
        if not path.is_dir():
            yield path
            continue
        found = sorted(p for p in path.rglob("*") if p.suffix in (*_LINES, *_PLAIN) and p.is_file())
        if not found:
            raise UsageError(f"{path}: no text in it; files end in {', '.join((*_PLAIN, *_LINES))}")
        yield from found


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}", file=str(path), errno=error.errno) from error


def _records(path: Path, text: str, metadata: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    template = None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise UsageError(f"{path}, line {number}: not JSON") from None
        if isinstance(record, dict) and isinstance(record.get("text"), str):
            yield record["text"], False
        elif isinstance(record, dict) and isinstance(record.get("messages"), list):
            if template is None:
                from ggquant.calibration.chat import ChatTemplate

                template = ChatTemplate(metadata)
            yield template.render(record["messages"], f"{path}, line {number}"), True
        else:
            raise UsageError(f'{path}, line {number}: need an object with "text" or "messages"')

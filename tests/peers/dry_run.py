"""`llama-quantize --dry-run` as an oracle for decisions: writes header-only GGUF files and reads back the
formats.

A header-only file has a full header and no weights: it is extended to its full length without taking space
on disk.
"""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ggquant.tensor_types import FORMATS, tensor_bytes

ALIGNMENT = 32
_SCALARS = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q")}


@dataclass
class Model:
    """A model as headers describe it; shapes are in numpy order."""

    arch: str
    metadata: dict[str, Any]
    tensors: list[tuple[str, tuple[int, ...], str]]
    note: str = ""
    args: list[str] = field(default_factory=list)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "u32" if isinstance(value, int) else "f32"


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, list):
        if value and isinstance(value[0], str):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
        number, fmt = _SCALARS[_kind(value[0])] if value else _SCALARS["u32"]
        return struct.pack("<IIQ", 9, number, len(value)) + b"".join(struct.pack(fmt, v) for v in value)
    number, fmt = _SCALARS[_kind(value)]
    return struct.pack("<I", number) + struct.pack(fmt, value)


def write_headers(path: Path, model: Model) -> None:
    """Writes the header of `model`, and nothing for the weights."""
    metadata = {"general.architecture": model.arch, **model.metadata}
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(model.tensors), len(metadata))]
    parts += [_string(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for name, shape, dtype in model.tensors:
        parts.append(_string(name) + struct.pack("<I", len(shape)))
        parts.append(struct.pack(f"<{len(shape)}Q", *reversed(shape)))
        parts.append(struct.pack("<IQ", FORMATS[dtype].ggml_type, offset))
        size = tensor_bytes(shape, dtype)
        offset += -(-size // ALIGNMENT) * ALIGNMENT
    header = b"".join(parts)
    header += b"\0" * (-len(header) % ALIGNMENT)
    with path.open("wb") as f:
        f.write(header)
        f.truncate(len(header) + offset)


_LINE = re.compile(rb"\[ *\d+/ *\d+\] (.*?) +- \[[^\]]*\], type = +(\S+), size = +\S+ MiB(?: -> +\S+ MiB \((\S+)\))?")


@dataclass
class Answer:
    """What llama-quantize said: formats in its order, or why it refused."""

    formats: list[tuple[str, str]]
    refused: str = ""
    wants_imatrix: bool = False


def ask(binary: Path, path: Path, variant: str, args: Sequence[str] = ()) -> Answer:
    """Runs a dry run and reads the formats; `args` come before the file's name."""
    run = subprocess.run(
        [str(binary), "--dry-run", *args, str(path), variant],
        capture_output=True,
        timeout=120,
        check=False,
    )
    text = run.stdout + run.stderr
    if run.returncode:
        lines = [line for line in text.decode(errors="replace").splitlines() if line.strip()]
        return Answer([], refused="\n".join(lines[-6:]) or f"exit {run.returncode}")
    formats = [(m[1].decode(), (m[3] or m[2]).decode().upper()) for m in _LINE.finditer(text)]
    return Answer(formats, wants_imatrix=b"actually completing this quantization will require an imatrix" in text)

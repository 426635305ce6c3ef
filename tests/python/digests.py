"""Compact records of a GGUF's contents, and importance matrices to make one with."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

_SHORT = 8


def entry(key: str, kind: str, item_kind: str | None, items: Sequence[Any]) -> list[Any]:
    """One metadata entry: key, type, item type, and the value, or the digest of a long list."""
    values: list[Any] = [v.decode() if isinstance(v, bytes) else v for v in items]
    if "FLOAT32" in (kind, item_kind):
        values = [float(np.float32(v)) for v in values]
    if kind != "ARRAY":
        return [key, kind, values[0]]
    if len(values) > _SHORT:
        digest = sha256(json.dumps(values).encode()).hexdigest()
        return [key, kind, item_kind, f"{len(values)} items, sha256 {digest}"]
    return [key, kind, item_kind, values]


def dump(record: dict[str, Any]) -> str:
    """JSON with one metadata entry or tensor a line."""
    parts = []
    for name, value in record.items():
        if isinstance(value, list):
            parts.append(f' "{name}": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in value) + "\n ]")
        else:
            parts.append(f' "{name}": ' + json.dumps(value, indent=1).replace("\n", "\n "))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write_imatrix(path: Path, tensors: Sequence[Sequence[Any]]) -> None:
    """An importance matrix in llama.cpp's binary form, for every matrix of a model: sums over one call."""
    entries = [(name, shape) for name, shape, *_ in tensors if len(shape) >= 2 and name.startswith(("blk.", "output."))]
    with path.open("wb") as out:
        out.write(struct.pack("<i", len(entries)))
        for name, shape in entries:
            count = shape[-1] * (shape[0] if len(shape) == 3 else 1)
            raw = np.random.PCG64(crc32(name.encode()) ^ 1).random_raw(count) >> np.uint64(40)
            values = (raw.astype(np.float64) / (1 << 24) + 0.01).astype("<f4")
            text = name.encode()
            out.write(struct.pack("<i", len(text)) + text + struct.pack("<ii", 1, count) + values.tobytes())
        dataset = b"random"
        out.write(struct.pack("<ii", 1, len(dataset)) + dataset)

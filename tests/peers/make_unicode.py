"""Writes the character tables of `python/ggquant/tokenizing/unicode.json`.

    python tests/peers/make_unicode.py LLAMA_CPP_TREE

The facts are those of the Unicode Character Database in the version that llama.cpp's tokenizers use, so they are read
from `src/unicode-data.cpp` of its tree. `check_tokenizing.py` tells when they have changed there.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parents[2] / "python" / "ggquant" / "tokenizing" / "unicode.json"
LETTERS = {0x01: "U", 0x02: "N", 0x04: "L", 0x08: "Z", 0x10: "M", 0x20: "P", 0x40: "S", 0x80: "C"}


def numbers(source: str, name: str) -> list[tuple[int, ...]]:
    body = re.search(name + r"\s*=\s*\{(.*?)\n\};", source, re.DOTALL)
    assert body, name
    rows = re.findall(r"^\{?((?:0x[0-9A-Fa-f]+(?:, )?)+)\}?,", body[1], re.MULTILINE)
    return [tuple(int(number, 16) for number in row.split(",") if number.strip()) for row in rows]


def categories(source: str) -> str:
    rows = numbers(source, "unicode_ranges_flags")
    ends = [start for start, _ in rows[1:]]
    return " ".join(f"{LETTERS[flags & 0xFF]}{end - start:x}" for (start, flags), end in zip(rows, ends, strict=False))


def lowercase(source: str) -> str:
    """Runs of letters at one distance from each other that all move by the same amount: start.count.step.shift."""
    runs: list[list[int]] = []
    for upper, lower in numbers(source, "unicode_map_lowercase"):
        if runs:
            start, count, step, shift = runs[-1]
            gap = upper - (start + (count - 1) * step)
            if lower - upper == shift and (gap == step or (count == 1 and gap <= 2)):
                runs[-1] = [start, count + 1, gap, shift]
                continue
        runs.append([upper, 1, 1, lower - upper])
    return " ".join(".".join(f"{number:x}" for number in run) for run in runs)


def bases(source: str) -> str:
    """Characters and the base letter they decompose to: first.count.base."""
    rows = numbers(source, "unicode_ranges_nfd")
    return " ".join(f"{first:x}.{last - first + 1:x}.{base:x}" for first, last, base in rows if first)


def main() -> None:
    source = (Path(sys.argv[1]) / "src" / "unicode-data.cpp").read_text()
    whitespace = " ".join(f"{point:x}" for (point,) in numbers(source, "unicode_set_whitespace"))
    tables = {
        "categories": categories(source),
        "whitespace": whitespace,
        "lowercase": lowercase(source),
        "bases": bases(source),
    }
    TARGET.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Fills `corpus/` with the test files, so that fuzzing starts from what the parsers nearly accept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

HERE = Path(__file__).parent
DATA = HERE.parent / "tests" / "data"

SOURCES = {
    "gguf": ["malformed/gguf/*.gguf", "gguf/mixed.gguf", "gguf/swapped*.gguf", "gguf/split-*.gguf"],
    "imatrix_gguf": ["malformed/imatrix/*.gguf", "gguf/experts.gguf"],
    "imatrix_legacy": ["malformed/imatrix/*.dat"],
    "safetensors": ["malformed/safetensors/*.safetensors"],
}


def main() -> None:
    """Copies the seeds of every target."""
    for target, patterns in SOURCES.items():
        folder = HERE / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for source in (path for pattern in patterns for path in DATA.glob(pattern)):
            if source.stat().st_size <= 16384:
                shutil.copy(source, folder / source.name)
    folder = HERE / "corpus" / "json"
    folder.mkdir(parents=True, exist_ok=True)
    documents = [
        None,
        True,
        -1.5e300,
        "é\u0000\U0001f600",
        [],
        {},
        {"model": {"vocab": {"a": 0}, "merges": [["a", "b"]]}},
    ]
    for i, document in enumerate(documents):
        (folder / f"document-{i}").write_text(json.dumps(document, ensure_ascii=bool(i % 2)))
    (folder / "deep").write_text("[" * 200 + "]" * 200)


if __name__ == "__main__":
    main()

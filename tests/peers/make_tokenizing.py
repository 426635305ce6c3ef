"""Ids of llama.cpp's tokenizer for small vocabularies of every kind, for tests/data/tokenizing.json.

    python tests/peers/make_tokenizing.py        # where llama-cpp-python is

For each vocabulary: a digest of the ids of random texts, without special tokens and with them, and the ids of one text.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

import ggquant as gg  # noqa: E402
from ggquant.tokenizing import Tokenizer  # noqa: E402
from peer_tokenizer import Peer  # noqa: E402
from tokenizing_cases import SAMPLE, TEXTS, cases, digest, marked  # noqa: E402

CHARSMAP = "tokenizer.ggml.precompiled_charsmap"


def main() -> None:
    records = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, metadata) in enumerate(cases().items()):
            path = Path(scratch) / f"{number}.gguf"
            typed = gg.Metadata(metadata)
            if CHARSMAP in typed:
                typed[CHARSMAP] = gg.MetaValue("ARRAY", metadata[CHARSMAP], "INT8")
            with gg.GGUFWriter(path, typed):
                pass
            peer = Peer(path)
            special = Tokenizer(metadata).special_texts
            records[name] = {
                "sample": peer.encode(SAMPLE, add_special=True, parse_special=False),
                "plain": digest(peer.encode(text, add_special=False, parse_special=False) for text in TEXTS),
                "special": digest(
                    peer.encode(marked(text, special), add_special=True, parse_special=True) for text in TEXTS
                ),
            }
            peer.close()
    rows = ",\n".join(f" {json.dumps(name)}: {json.dumps(record)}" for name, record in records.items())
    (ROOT / "tests" / "data" / "tokenizing.json").write_text("{\n" + rows + "\n}\n")


if __name__ == "__main__":
    main()

"""Token ids for the real vocabularies of llama.cpp's tree: its stored ids, and its own tokenizer on random text.

    python tests/peers/check_tokenizing.py LLAMA_CPP_TREE [NAME ...] [--texts N] [--seed S]

The vocabularies are the `models/ggml-vocab-*.gguf` files. Each is also tried with the metadata of other pre-tokenizers
put in its place (`--pre all`), which covers those for which there is no vocabulary in the tree.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import llama_cpp

import ggquant as gg
from ggquant.tokenizing import Tokenizer, load_tokenizer
from ggquant.tokenizing.pretokenizers import PRE_TOKENIZERS
from random_text import random_text


class Peer:
    """llama.cpp's tokenizer for a file."""

    def __init__(self, path: Path) -> None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = True
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert self._model, path
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        data = text.encode()
        room = len(data) * 4 + 16
        ids = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), ids, room, add_special, parse_special)
        assert count >= 0
        return list(ids[:count])

    def close(self) -> None:
        llama_cpp.llama_model_free(self._model)


def stored(path: Path) -> Iterator[tuple[str, list[int]]]:
    """The texts and ids beside a vocabulary."""
    texts = path.with_suffix(".gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    ids = path.with_suffix(".gguf.out").read_text().splitlines()
    yield from zip(texts, ([int(i) for i in line.split()] for line in ids), strict=False)


def compare(name: str, ours: Tokenizer, theirs: Peer, texts: list[str]) -> int:
    specials = ours.special_texts
    wrong = 0
    for number, text in enumerate(texts):
        for add_special, parse_special in ((False, False), (True, True)):
            if parse_special and specials:
                text = f"{text[: len(text) // 2]}{specials[number % len(specials)]}{text[len(text) // 2 :]}"
            found = ours.encode(text, add_special=add_special, parse_special=parse_special)
            expected = theirs.encode(text, add_special, parse_special)
            if found != expected:
                wrong += 1
                if wrong <= 3:
                    at = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), None)
                    print(f"  {name}: {text!r} ({add_special}) differs at {at}: {found} {expected}")
    return wrong


def with_pre(path: Path, pre: str, folder: Path) -> Path:
    """The same vocabulary with another pre-tokenizer."""
    metadata = gg.Metadata(gg.open(path).metadata)
    metadata["tokenizer.ggml.pre"] = pre
    target = folder / f"{pre.replace('/', '_')}.gguf"
    with gg.GGUFWriter(target, metadata, overwrite=True):
        pass
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pre", default="")
    args = parser.parse_intermixed_args()
    llama_cpp.llama_log_set(_SILENT, None)
    paths = sorted((args.tree / "models").glob("ggml-vocab-*.gguf"))
    if args.names:
        paths = [p for p in paths if p.stem.removeprefix("ggml-vocab-") in args.names]
    failed = 0
    for path in paths:
        ours = load_tokenizer(path)
        if path.with_suffix(".gguf.inp").exists():
            pairs = list(stored(path))
            bad = [text for text, ids in pairs if ours.encode(text, add_special=False) != ids]
            failed += len(bad)
            print(path.stem, f"{len(pairs) - len(bad)} of {len(pairs)} stored", *map(repr, bad[:2]), flush=True)
        texts = [random_text(args.seed * 100_003 + number) for number in range(args.texts)]
        peer = Peer(path)
        wrong = compare(path.stem, ours, peer, texts)
        peer.close()
        print(path.stem, f"{args.texts * 2 - wrong} of {args.texts * 2} random", flush=True)
        failed += wrong
        # "whitespace" belongs to a model of that name; llama.cpp stops at the first space where another has it.
        names = [n for n in PRE_TOKENIZERS if n != "whitespace"] if args.pre == "all" else args.pre.split()
        with tempfile.TemporaryDirectory() as scratch:
            for pre in names:
                changed = with_pre(path, pre, Path(scratch))
                peer = Peer(changed)
                wrong = compare(pre, load_tokenizer(changed), peer, texts)
                peer.close()
                changed.unlink()
                print("  ", pre, f"{args.texts * 2 - wrong} of {args.texts * 2}", flush=True)
                failed += wrong
    sys.exit(bool(failed))


@llama_cpp.llama_log_callback
def _SILENT(level: int, text: bytes, data: object) -> None:  # noqa: N802
    pass


if __name__ == "__main__":
    main()

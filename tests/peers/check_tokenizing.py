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

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

import ggquant as gg  # noqa: E402
from ggquant.tokenizing import Tokenizer, load_tokenizer  # noqa: E402
from ggquant.tokenizing.pretokenizers import PRE_TOKENIZERS  # noqa: E402
from peer_tokenizer import Peer  # noqa: E402
from random_text import random_text  # noqa: E402


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
            expected = theirs.encode(text, add_special=add_special, parse_special=parse_special)
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


if __name__ == "__main__":
    main()

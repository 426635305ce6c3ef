"""Compares our decisions with those of `llama-quantize --dry-run` on random header-only models.

    PYTHONPATH=python python tests/peers/check_decisions.py path/to/llama-quantize --seeds 0:2000

Each seed is one model and one question: a variant, with or without an imatrix, with or without other options.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dry_run import Answer, Model, ask, write_headers
from ggquant.overrides import Options, parse_tensor_type
from ggquant.policy import ALIASES, VARIANTS, MisfitError, ModelFacts, PolicyError, choose, find_variant
from ggquant.tensor_types import FORMATS
from random_models import random_model

UPSTREAM = [name for name, v in VARIANTS.items() if v.base is None]
SPELLINGS = [
    *UPSTREAM,
    *ALIASES,
    *(str(VARIANTS[n].file_type) for n in UPSTREAM if not VARIANTS[n].copies),
]
TARGETS = [name for name, facts in FORMATS.items() if facts.is_target]
PATTERNS = [
    *(
        "attn_v",
        "ffn_.*_exps",
        "token_embd",
        "output",
        "attn_(q|k)",
        "per_layer",
        "FFN_UP",
        ".*",
        "ffn_(up|down)",
    ),
    *(r"blk\.[02468]\.", r"\.(\d*[13579])\.attn_k", r"^blk\.1[0-9]?\.ffn_down\.weight$", r"blk\.(?:0|3)\b"),
]


MISFIT = "does not fit: "


@dataclass
class Question:
    """One variant with options, as arguments and as ours."""

    variant: str
    imatrix: bool
    args: list[str]
    options: dict[str, Any]

    def ours(self) -> Options:
        types = [parse_tensor_type(t) for t in self.options.get("tensor_types", ())]
        return Options(**{**self.options, "tensor_types": types})


def random_question(seed: int) -> Question:
    """The question of a seed."""
    rng = random.Random(f"question {seed}")
    args: list[str] = []
    options: dict[str, Any] = {}
    if rng.random() < 0.4:
        if rng.random() < 0.3:
            options["output_tensor_type"] = rng.choice(TARGETS)
            args += [
                "--output-tensor-type",
                rng.choice([str.lower, str.upper])(options["output_tensor_type"]),
            ]
        if rng.random() < 0.3:
            options["token_embedding_type"] = rng.choice(TARGETS)
            args += ["--token-embedding-type", options["token_embedding_type"].lower()]
        if rng.random() < 0.4:
            options["tensor_types"] = [
                f"{rng.choice(PATTERNS)}={rng.choice(TARGETS)}" for _ in range(rng.randint(1, 3))
            ]
            for t in options["tensor_types"]:
                args += ["--tensor-type", t]
        for name, share in (("leave_output_tensor", 0.2), ("pure", 0.15), ("keep_split", 0.1)):
            if rng.random() < share:
                options[name] = True
                args.append("--" + name.replace("_", "-"))
        if rng.random() < 0.2:
            options["prune_layers"] = sorted({rng.randint(0, 12) for _ in range(rng.randint(1, 4))})
            args += ["--prune-layers", ",".join(map(str, options["prune_layers"]))]
    spelling = rng.choice([str.lower, str.upper])(rng.choice(SPELLINGS))
    return Question(spelling, rng.random() < 0.4, args, options)


def write_imatrix(path: Path) -> None:
    """A legacy imatrix file with one entry: that there is one is all that decisions depend on."""
    name = b"blk.0.attn_q.weight"
    data = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii4f", 1, 4, 1.0, 1.0, 1.0, 1.0)
    path.write_bytes(data + struct.pack("<ii", 1, 0))


def our_answer(model: Model, question: Question) -> Answer:
    """Our decisions in the same form."""
    facts = ModelFacts.from_metadata(model.metadata, arch=model.arch)
    try:
        decisions = choose(facts, model.tensors, question.variant, imatrix=question.imatrix, options=question.ours())
    except MisfitError as e:
        return Answer([], refused=f"{MISFIT}{e}")
    except PolicyError as e:
        return Answer([], refused=str(e))
    wants = not question.imatrix and any(d.requires_imatrix and d.dtype != d.format for d in decisions)
    return Answer([(d.name, d.format) for d in decisions], wants_imatrix=wants)


def compare(
    binary: Path,
    folder: Path,
    imatrix: Path,
    seed: int,
    model: Model | None = None,
    question: Question | None = None,
) -> tuple[int, Model, Question, Answer, str]:
    """Asks both (by default, what the seed gives); the last item says how they differ, or is empty."""
    model, question = model or random_model(seed), question or random_question(seed)
    path = folder / f"{seed}.gguf"
    write_headers(path, model)
    args = [*question.args, *(["--imatrix", str(imatrix)] if question.imatrix else [])]
    theirs = ask(binary, path, question.variant, args)
    path.unlink()
    ours = our_answer(model, question)
    difference = ""
    if ours.refused.startswith(MISFIT) and not theirs.refused:
        # A dry run there divides the row's length and goes on; nothing sound could be written.
        rows = {name: shape[-1] for name, shape, _ in model.tensors}
        if not any(rows.get(name, 0) % FORMATS[fmt].block_len for name, fmt in theirs.formats):
            difference = f"ours: {ours.refused}"
    elif bool(theirs.refused) != bool(ours.refused):
        difference = f"refusals differ:\n  theirs: {theirs.refused}\n  ours: {ours.refused}"
    elif ours.formats != theirs.formats:
        pairs = [f"{a} / {b}" for a, b in zip(ours.formats, theirs.formats, strict=False) if a != b]
        difference = f"{len(ours.formats)} and {len(theirs.formats)} tensors; ours / theirs: " + "; ".join(pairs[:5])
    elif ours.wants_imatrix != theirs.wants_imatrix:
        difference = f"needs an imatrix: ours {ours.wants_imatrix}, theirs {theirs.wants_imatrix}"
    return seed, model, question, theirs, difference


def main() -> int:
    """Runs the comparison; the exit code says whether all agreed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--seeds", default="0:2000")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    first, last = map(int, options.seeds.split(":"))
    tally: Counter[str] = Counter()
    variants: Counter[str] = Counter()
    architectures: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.jobs) as pool:
        folder = Path(temporary)
        imatrix = folder / "imatrix.dat"
        write_imatrix(imatrix)
        runs = pool.map(lambda seed: compare(options.binary, folder, imatrix, seed), range(first, last))
        for seed, model, question, theirs, difference in runs:
            tally["differ" if difference else "refused by both" if theirs.refused else "agree"] += 1
            variants[find_variant(question.variant).name] += 1
            architectures[model.arch] += 1
            tally["tensors compared"] += len(theirs.formats)
            if difference:
                print(f"seed {seed}: {model.arch} {question.variant} {question.args} imatrix={question.imatrix}")
                print(f"  {difference}")
    print(dict(tally), f"{len(architectures)} architectures", f"{len(variants)} variants")
    return 1 if tally["differ"] else 0


if __name__ == "__main__":
    sys.exit(main())

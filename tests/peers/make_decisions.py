"""Makes tests/data/variants/decisions.json: answers of `llama-quantize --dry-run` for the ordinary tests.

    PYTHONPATH=python:tests/python python tests/peers/make_decisions.py path/to/llama-quantize

Models are random ones that can be written down briefly; each is asked a number of questions.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from check_decisions import MISFIT, UPSTREAM, compare, our_answer, random_question, write_imatrix
from decision_text import tensors_to, to_lines
from ggquant.policy import find_variant
from random_models import random_model

OUTPUT = Path(__file__).parent.parent / "data/variants/decisions.json"
FACTS = {
    "block_count",
    "attention.head_count",
    "attention.head_count_kv",
    "expert_count",
    "nextn_predict_layers",
    "num_loops",
}
MODELS, QUESTIONS = 42, 10


def main() -> int:
    """Asks and writes."""
    binary = Path(sys.argv[1])
    rng = random.Random(0)
    models: list[dict[str, Any]] = []
    seed = 100_000
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        imatrix = folder / "imatrix.dat"
        write_imatrix(imatrix)
        while len(models) < MODELS:
            seed += 1
            model = random_model(seed)
            tensors = tensors_to((name, shape) for name, shape, _ in model.tensors)
            if not 8 <= len(tensors) <= 34:
                continue
            answers: list[dict[str, Any]] = []
            while len(answers) < QUESTIONS:
                question = random_question(rng.randrange(10**9))
                if len(answers) < 6:  # most questions without options, all variants in turn
                    question.args, question.options = [], {}
                    question.variant = UPSTREAM[(len(models) * 6 + len(answers)) % len(UPSTREAM)]
                if "keep_split" in question.options:
                    continue
                *_, theirs, difference = compare(binary, folder, imatrix, seed, model, question)
                if our_answer(model, question).refused.startswith(MISFIT):
                    continue
                if difference:
                    raise SystemExit(f"seed {seed}: {difference}")
                default = find_variant(question.variant).format
                answers.append(
                    {
                        "variant": question.variant,
                        **({"imatrix": True} if question.imatrix else {}),
                        **({"options": question.options} if question.options else {}),
                        **({"wants_imatrix": True} if theirs.wants_imatrix else {}),
                        **({"refused": True} if theirs.refused else {}),
                        "formats": to_lines(dict(theirs.formats), default),
                    }
                )
            facts = {k.partition(".")[2]: v for k, v in model.metadata.items()}
            models.append(
                {
                    "arch": model.arch,
                    "facts": {k: v for k, v in facts.items() if k in FACTS},
                    "floats": next((d for _, s, d in model.tensors if d != "F32"), "F32"),
                    "tensors": tensors,
                    "answers": answers,
                }
            )
    lines = []
    for m in models:
        head = ", ".join(f"{json.dumps(k)}: {json.dumps(m[k])}" for k in m if k != "answers")
        rows = ",\n".join("  " + json.dumps(a) for a in m["answers"])
        lines.append(f'{{{head}, "answers": [\n{rows}\n]}}')
    OUTPUT.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

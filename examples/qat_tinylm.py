"""Trains a small model under quantization by distillation from itself, writes the GGUF file and measures both.

    python examples/qat_tinylm.py --variant Q2_K --text calibration.txt --heldout heldout.txt --minutes 15

Needs `pip install 'ggquant[torch]' transformers`. The defaults fit the model in tests/data/tinylm and two CPU cores;
another checkpoint and other texts can be given.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import ggquant as gg
from ggquant import qat
from ggquant.tokenizing import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "tests/data/tinylm", help="folder of a checkpoint")
    parser.add_argument("--variant", default="Q2_K")
    parser.add_argument("--text", type=Path, required=True, help="text to train on")
    parser.add_argument("--heldout", type=Path, required=True, help="another text, to measure on")
    parser.add_argument("--imatrix", type=Path, help="importance matrix for the searches")
    parser.add_argument("--out", type=Path, default=Path("qat.gguf"))
    parser.add_argument("--minutes", type=float, default=15.0, help="time to train")
    parser.add_argument("--rate", type=float, default=2e-4, help="largest learning rate")
    parser.add_argument("--batch", type=int, default=8, help="windows in a step")
    parser.add_argument("--context", type=int, default=256, help="tokens in a window")
    parser.add_argument("--scale-refresh", type=int, default=4)
    parser.add_argument("--pre", default="gpt-2", help="pre-tokenizer of a tokenizer that llama.cpp does not know")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def windows(text: Path, tokenizer: Path, context: int) -> torch.Tensor:
    """The text's tokens in windows of `context`, `[n, context]`; what does not fill a window is left out."""
    ids = load_tokenizer(tokenizer).encode(text.read_text(encoding="utf-8"), add_special=False)
    count = len(ids) // context
    return torch.tensor(ids[: count * context]).reshape(count, context)


def batches(data: torch.Tensor, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless batches, each window once before any comes again, cut at another place every time."""
    generator = torch.Generator().manual_seed(seed)
    flat, context = data.reshape(-1), data.shape[1]
    while True:
        shift = int(torch.randint(0, context, (1,), generator=generator))
        shifted = flat[shift : shift + (len(flat) - shift) // context * context].reshape(-1, context)
        for rows in torch.randperm(len(shifted), generator=generator).split(size):
            if len(rows) == size:
                yield shifted[rows]


@torch.no_grad()
def divergence(student: torch.nn.Module, teacher: torch.nn.Module, data: torch.Tensor, size: int) -> float:
    """Mean KL divergence over the second half of each window, as llama-perplexity counts."""
    student.eval()
    total = 0.0
    for rows in data.split(size):
        half = slice(rows.shape[1] // 2, None)
        loss = qat.distillation_loss(student(rows).logits[:, half], teacher(rows).logits[:, half])
        total += loss.item() * len(rows)
    return total / len(data)


def main() -> None:
    """Trains, exports, measures."""
    args = arguments()
    torch.manual_seed(args.seed)
    teacher = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    student = copy.deepcopy(teacher)
    train, test = (windows(text, args.model, args.context) for text in (args.text, args.heldout))
    qat.prepare(student, args.variant, imatrix=args.imatrix, scale_refresh=args.scale_refresh)
    best = divergence(student, teacher, test[: 4 * args.batch], args.batch)
    print(f"{args.variant} before training: KLD {best:.5f} on {4 * args.batch} windows of {args.heldout.name}")

    optimizer = torch.optim.AdamW(student.parameters(), lr=args.rate, betas=(0.9, 0.95), weight_decay=0.0)
    columns = (TextColumn("step {task.fields[step]}"), BarColumn(), TextColumn("KLD {task.fields[loss]:.5f}"))
    started = time.monotonic()
    budget = 60 * args.minutes
    average = math.nan
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("training", total=budget, step=0, loss=best)
        for step, rows in enumerate(batches(train, args.batch, args.seed)):
            spent = time.monotonic() - started
            if spent >= budget:
                break
            share = spent / budget
            warm = min(1.0, (step + 1) / 20)
            optimizer.param_groups[0]["lr"] = args.rate * warm * 0.5 * (1 + math.cos(math.pi * share))
            student.train()
            with torch.no_grad():
                wanted = teacher(rows).logits
            loss = qat.distillation_loss(student(rows).logits, wanted)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            average = loss.item() if math.isnan(average) else 0.95 * average + 0.05 * loss.item()
            bar.update(task, completed=spent, step=step + 1, loss=average)

    after = divergence(student, teacher, test, args.batch)
    path = qat.export_gguf(student, args.model, args.out, pre=args.pre, overwrite=True)
    qat.convert(student)
    file = gg.open(path)
    size = sum(tensor.nbytes for tensor in file.tensors.values())
    print(f"{path}: {size / 1e6:.2f} MB of tensors, KLD {after:.5f} on {args.heldout.name}, {args.context} tokens")


if __name__ == "__main__":
    main()

"""Trains a small model under quantization, by distillation from itself, writes GGUF files and measures them.

    python examples/qat_tinylm.py --text calibration.txt --heldout heldout.txt --variants Q2_K Q3_K_S --minutes 15

Needs `pip install 'ggquant[torch]' transformers`; with the extra `plot` as well, `--plot FILE.png` draws the
divergence against the time of training. The defaults fit the model in tests/data/tinylm and two CPU cores; another
checkpoint of a family that ggquant knows and other texts can be given.

Training starts at the codes that GPTQ finds with the same text. The end of the text is kept from both: what is written
is the best of several evaluations on it, so that a training that goes wrong or goes on too long does no harm. The
held-out text is only measured.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import ggquant as gg
from ggquant import qat
from ggquant.layerwise.convert import quantize_by_gptq
from ggquant.layerwise.solve import LayerwiseOptions
from ggquant.tokenizing import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
#: Largest learning rate by bits per weight: the finer the grid, the shorter the way to a better code.
RATES = ((2.9, 3e-4), (3.9, 2e-4), (math.inf, 3e-5))
EVALUATIONS = 8


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "tests/data/tinylm", help="folder of a checkpoint")
    parser.add_argument("--variants", nargs="+", default=["Q2_K", "Q3_K_S"])
    parser.add_argument("--text", type=Path, required=True, help="text to train on")
    parser.add_argument("--heldout", type=Path, nargs="+", required=True, help="other texts, to measure on")
    parser.add_argument("--chunks", type=int, help="measure on so many chunks of 512 tokens of each, not on all")
    parser.add_argument("--imatrix", type=Path, help="importance matrix; collected from the text if not given")
    parser.add_argument("--out", type=Path, default=Path("qat"), help="folder for what is written")
    parser.add_argument("--minutes", type=float, default=15.0, help="time to train, for each variant")
    parser.add_argument("--steps", type=int, help="train so many steps, however long they take")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: minutes of all cores in use")
    parser.add_argument("--rate", type=float, help="largest learning rate (by default, after the bits of the variant)")
    parser.add_argument(
        "--embedding-rate", type=float, default=0.1, help="its learning rate, as a share: rows see few gradients"
    )
    parser.add_argument(
        "--scale-rate", type=float, default=0.0, help="learning rate of scales, from GPTQ's on; 0 keeps those"
    )
    parser.add_argument("--start", choices=("gptq", "rounding"), default="gptq")
    parser.add_argument("--effort", choices=("fast", "normal", "best"), default="best", help="of GPTQ")
    parser.add_argument(
        "--gptq-chunks", type=int, help="chunks that GPTQ calibrates with, by default those of training"
    )
    parser.add_argument(
        "--gptq-file",
        type=Path,
        help="start from this file, of the one variant that is trained, in the place of running GPTQ",
    )
    parser.add_argument("--margin", type=float, default=0.5, help="see ptq_then_qat")
    parser.add_argument("--corrupt", type=float, default=0.15, help="share of windows with random tokens in them")
    parser.add_argument("--batch", type=int, default=1, help="windows in a step")
    parser.add_argument("--context", type=int, default=512, help="tokens in a window: as many as will be read")
    parser.add_argument("--scale-refresh", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--pre", default="gpt-2", help="pre-tokenizer of a tokenizer that llama.cpp does not know")
    parser.add_argument("--plot", type=Path, help="draw the course of the training to this file")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def windows(text: Path, tokenizer: Path, context: int) -> torch.Tensor:
    """The text's tokens in windows of `context`, `[n, context]`; what does not fill a window is left out."""
    ids = load_tokenizer(tokenizer).encode(text.read_text(encoding="utf-8"), add_special=False)
    count = len(ids) // context
    return torch.tensor(ids[: count * context]).reshape(count, context)


def batches(data: torch.Tensor, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless batches, each window once before any comes again, cut at another place every time round."""
    generator = torch.Generator().manual_seed(seed)
    flat, context = data.reshape(-1), data.shape[1]
    while True:
        shift = int(torch.randint(0, context, (1,), generator=generator))
        shifted = flat[shift : shift + (len(flat) - shift) // context * context].reshape(-1, context)
        for rows in torch.randperm(len(shifted), generator=generator).split(size):
            if len(rows) == size:
                yield shifted[rows]


def corrupted(rows: torch.Tensor, share: float, vocabulary: int, generator: torch.Generator) -> torch.Tensor:
    """Random tokens in `share` of the windows, for up to three tenths of theirs.

    The original says what follows in any context, so these are honest examples, and they show tokens that the text
    hardly has: a small text is not all that the model will read.
    """

    def chance(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    chosen = (chance(len(rows), 1) < share) & (chance(*rows.shape) < 0.3 * chance(len(rows), 1))
    return torch.where(chosen, torch.randint(0, vocabulary, rows.shape, generator=generator), rows)


def parameter_groups(model: torch.nn.Module, args: argparse.Namespace) -> list[dict[str, object]]:
    """Scales and token embeddings apart: Adam takes an embedding's rare gradients for large ones, and moves it far."""
    scales = qat.scale_parameters(model)
    weight = model.get_input_embeddings().parametrizations.weight.original
    apart = {id(p) for p in [*scales, weight]}
    return [
        {"params": [p for p in model.parameters() if id(p) not in apart], "largest": args.rate},
        {"params": [weight], "largest": args.rate * args.embedding_rate},
        {"params": scales, "largest": args.scale_rate},
    ]


@torch.no_grad()
def divergence(student: torch.nn.Module, teacher: torch.nn.Module, data: torch.Tensor) -> float:
    """Mean KL divergence over the second half of each window, as llama-perplexity counts."""
    student.eval()
    half = slice(data.shape[1] // 2, None)
    total = sum(
        qat.distillation_loss(student(rows).logits[:, half], teacher(rows).logits[:, half]).item() * len(rows)
        for rows in data.split(4)
    )
    return total / len(data)


def snapshot(model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """The weights, and the scales that go with them."""
    return copy.deepcopy(model.state_dict()), copy.deepcopy(qat.quantized_state(model))


@dataclass(frozen=True)
class Point:
    """One evaluation: steps and seconds of training before it, and the divergence on the text kept from training."""

    step: int
    seconds: float
    kld: float


def train(
    student: torch.nn.Module, teacher: torch.nn.Module, data: torch.Tensor, kept: torch.Tensor, args: argparse.Namespace
) -> list[Point]:
    """Trains a prepared model and leaves it with the weights of the best evaluation, evaluated."""
    clock: Callable[[], float] = time.monotonic if args.clock == "wall" else time.process_time
    budget = 60 * args.minutes * (1 if args.clock == "wall" else args.threads)
    groups = parameter_groups(student, args)
    optimizer = torch.optim.AdamW(groups, lr=args.rate, betas=(0.95, 0.99), weight_decay=0.0, fused=True)
    generator = torch.Generator().manual_seed(args.seed)
    history = [Point(0, 0.0, divergence(student, teacher, kept))]
    best = snapshot(student)
    spent, average = 0.0, history[0].kld
    columns = (TextColumn("step {task.fields[step]}"), BarColumn(), TextColumn("KLD {task.fields[loss]:.5f}"))
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("training", total=1.0, step=0, loss=average)
        for step, rows in enumerate(batches(data, args.batch, args.seed), start=1):
            began = clock()
            share = (step - 1) / args.steps if args.steps else spent / budget
            factor = min(1.0, step / 10) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
            for group in optimizer.param_groups:
                group["lr"] = factor * group["largest"]
            rows = corrupted(rows, args.corrupt, teacher.config.vocab_size, generator)
            student.train()
            with torch.no_grad():
                wanted = teacher(rows).logits
            loss = qat.distillation_loss(student(rows).logits, wanted)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            spent += clock() - began
            average = 0.95 * average + 0.05 * loss.item()
            share = step / args.steps if args.steps else spent / budget
            bar.update(task, completed=share, step=step, loss=average)
            if share >= len(history) / EVALUATIONS:
                history.append(Point(step, spent, divergence(student, teacher, kept)))
                if history[-1].kld <= min(point.kld for point in history):
                    best = snapshot(student)
            if share >= 1:
                break
    student.load_state_dict(best[0])
    qat.restore_quantized_state(student, best[1])
    student.eval()
    with torch.no_grad():
        student(kept[:1])
    return history


def prepared(
    teacher: torch.nn.Module, variant: str, args: argparse.Namespace
) -> tuple[torch.nn.Module, dict[str, Path]]:
    """A student at the start of its training, and what to compare it with: files by the name of their method."""
    files = {"rounding": args.out / f"{variant}-rounding.gguf"}
    gg.convert(args.model, files["rounding"], variant, imatrix=args.imatrix, pre=args.pre, overwrite=True)
    options = {"imatrix": args.imatrix, "threads": args.threads}
    student = copy.deepcopy(teacher)
    if args.start == "rounding":
        qat.prepare(student, variant, scale_refresh=args.scale_refresh, **options)
    else:
        files["gptq"] = args.gptq_file or args.out / f"{variant}-gptq.gguf"
        if args.gptq_file is None:
            quantize_by_gptq(
                args.model,
                files["gptq"],
                variant,
                method=LayerwiseOptions.of(args.effort),
                calibration=[args.text],
                chunks=args.gptq_chunks,
                context=args.context,
                pre=args.pre,
                threads=args.threads,
                overwrite=True,
            )
        options["learn_scales"] = args.scale_rate > 0
        qat.ptq_then_qat(student, files["gptq"], variant, margin=args.margin, **options)
    return student, files


def usual_rate(model: torch.nn.Module) -> float:
    """A learning rate for the format that most of the weights are in."""
    weights: Counter[str] = Counter()
    for decision in qat.describe(model):
        weights[decision.format] += math.prod(decision.shape)
    most = weights.most_common(1)[0][0]
    bits = next(info.bits_per_weight for info in gg.formats() if info.name == most)
    return next(rate for limit, rate in RATES if bits <= limit)


def measured(path: Path, args: argparse.Namespace) -> dict[str, float]:
    """Divergence from the original on each held-out text, with llama-perplexity's windows."""
    found = {}
    for text in args.heldout:
        result = gg.evaluate(path, text, reference=args.model, context=512, chunks=args.chunks, threads=args.threads)
        found[text.stem] = float(result.kld_mean or 0.0)
    return found


def plot(runs: dict[str, list[Point]], path: Path, clock: str) -> None:
    """Divergence on the text kept from training against the time of training, in units of each variant's beginning."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for variant, history in runs.items():
        times = [point.seconds / 60 for point in history]
        axes.plot(times, [point.kld / history[0].kld for point in history], marker="o", label=variant)
    axes.set_xlabel("minutes of training" if clock == "wall" else "CPU minutes of training")
    axes.set_ylabel("KL divergence / divergence before training")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Trains each variant, exports it, measures it beside the file that quantization alone gives."""
    args = arguments()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.imatrix is None:
        args.imatrix = args.out / "imatrix.gguf"
        gg.collect_imatrix(args.model, [args.text], args.imatrix, overwrite=True, threads=args.threads, pre=args.pre)
    teacher = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    data = windows(args.text, args.model, args.context)
    count = max(1, min(16, len(data) // 10))
    data, kept = data[:-count], data[-count:]
    args.gptq_chunks = args.gptq_chunks or len(data)
    given, runs, report = args.rate, {}, {}
    for variant in args.variants:
        torch.manual_seed(args.seed)
        student, files = prepared(teacher, variant, args)
        args.rate = usual_rate(student) if given is None else given
        runs[variant] = train(student, teacher, data, kept, args)
        files["trained"] = args.out / f"{variant}.gguf"
        qat.export_gguf(student, args.model, files["trained"], pre=args.pre, overwrite=True)
        texts = {method: measured(file, args) for method, file in files.items()}
        report[variant] = {**texts, "course": [vars(point) for point in runs[variant]]}
        for name, first in texts["rounding"].items():
            ratios = ", ".join(f"{method} {t[name]:.5f} ({t[name] / first:.2f}x)" for method, t in texts.items())
            print(f"{variant}, {name}: KLD {ratios}")
    (args.out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    if args.plot is not None:
        plot(runs, args.plot, args.clock)


if __name__ == "__main__":
    main()

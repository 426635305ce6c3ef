"""`ggquant evaluate`: perplexity, and divergence from a reference."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ggquant.cli.progress import work_progress
from ggquant.cli.text import printable
from ggquant.errors import UsageError

if TYPE_CHECKING:
    from ggquant.evaluation.summary import Evaluation


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint's folder, or a GGUF file.")],
    text: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[TEXT]...", help="Text files; not needed with --logits, which have their tokens."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="BASE", help="Compare predictions with this model's, the original's."),
    ] = None,
    logits: Annotated[
        Path | None,
        typer.Option(
            "--logits", metavar="FILE", help="Compare with predictions from --save-logits or llama-perplexity."
        ),
    ] = None,
    save_logits: Annotated[
        Path | None, typer.Option("--save-logits", metavar="FILE", help="Write the model's predictions to a file.")
    ] = None,
    context: Annotated[
        int | None, typer.Option("-c", "--ctx-size", metavar="N", help="Tokens in a chunk [default: 512].")
    ] = None,
    chunks: Annotated[int | None, typer.Option("--chunks", metavar="N", help="Use only the first N chunks.")] = None,
    activations: Annotated[
        str,
        typer.Option(
            "--activations",
            metavar="KIND",
            help="float32, or int8 to compute as llama.cpp does with quantized weights.",
        ),
    ] = "float32",
    memory: Annotated[
        int | None, typer.Option("--memory", metavar="MB", min=1, help="Most megabytes of memory to use.")
    ] = None,
    threads: Annotated[int | None, typer.Option("-t", "--threads", metavar="N", help="Number of threads.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file of logits.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep what is done when interrupted, in a hidden folder here, and go on from what an earlier "
            "--resume run left.",
        ),
    ] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Measure a model on a text: perplexity, and how far its predictions are from those of a reference.

    Definitions and windows are those of llama-perplexity and its --kl-divergence.
    """
    import ggquant as gg

    if activations not in ("float32", "int8"):
        raise UsageError(f"--activations {activations}: choose float32 or int8")
    with work_progress(quiet=quiet or json_output) as progress:
        made = gg.evaluate(
            model,
            text or None,
            reference=reference,
            logits=logits,
            save_logits=save_logits,
            context=context,
            chunks=chunks,
            activations="int8" if activations == "int8" else "float32",
            threads=threads,
            memory=None if memory is None else memory * 1_000_000,
            overwrite=overwrite,
            resume=Path() if resume else None,
            progress=progress,
        )
    if json_output:
        print(json.dumps(asdict(made)))
        return
    for name, value in _lines(made):
        print(f"{name:<28} {value}")
    if save_logits is not None:
        print(printable(str(save_logits)))


def _lines(made: Evaluation) -> list[tuple[str, str]]:
    lines = [("perplexity", _with_error(made.ppl, made.ppl_stderr, 4))]
    if made.kld_mean is not None:
        lines += [
            ("perplexity of the reference", _with_error(made.ppl_base, made.ppl_base_stderr, 4)),
            ("ln of their ratio", _with_error(made.ln_ppl_ratio, made.ln_ppl_ratio_stderr, 6)),
            ("KL divergence, mean", _with_error(made.kld_mean, made.kld_stderr, 6)),
        ]
        shares = {"median": made.kld_median, "90 %": made.kld_p90, "95 %": made.kld_p95, "99 %": made.kld_p99}
        shares |= {"99.9 %": made.kld_p999, "maximum": made.kld_max}
        lines += [(f"KL divergence, {name}", f"{value:.6f}") for name, value in shares.items()]
        lines += [
            ("same most likely token", _with_error(made.same_top, made.same_top_stderr, 3, percent=True)),
            ("difference of p, mean", _with_error(made.dp_mean, made.dp_mean_stderr, 3, percent=True)),
            ("difference of p, RMS", _with_error(made.dp_rms, made.dp_rms_stderr, 3, percent=True)),
        ]
    rate = made.chunks * made.n_ctx / made.seconds if made.seconds > 0 else 0.0
    return [
        *lines,
        ("tokens scored", f"{made.tokens:,} in {made.chunks} chunks of {made.n_ctx}"),
        ("time", f"{made.seconds:.1f} s, {rate:,.0f} tokens/s"),
    ]


def _with_error(value: float | None, error: float | None, digits: int, *, percent: bool = False) -> str:
    factor, unit = (100, " %") if percent else (1, "")
    return f"{factor * (value or 0.0):.{digits}f} ± {factor * (error or 0.0):.{digits}f}{unit}"

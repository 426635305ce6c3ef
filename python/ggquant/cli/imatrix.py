"""`ggquant imatrix`: an importance matrix from a model and calibration text, or from earlier ones."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggquant.cli import render
from ggquant.cli.outcome import say_warning
from ggquant.cli.progress import layer_progress
from ggquant.cli.text import duration, parse_size, printable, size
from ggquant.errors import UsageError

if TYPE_CHECKING:
    from ggquant.calibration import Collection
    from ggquant.calibration.collect import Run

_AS_THEIRS = "Options of llama-imatrix"
_OURS = "Options of ggquant"


class OutputFormat(str, Enum):
    """Kinds of file."""

    gguf = "gguf"
    dat = "dat"


class Activations(str, Enum):
    """Kinds of arithmetic."""

    float32 = "float32"
    int8 = "int8"


def _theirs(*names: str, help: str, metavar: str | None = None, min: int | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, min=min, rich_help_panel=_AS_THEIRS)


def _ours(*names: str, help: str, metavar: str | None = None, min: int | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, min=min, rich_help_panel=_OURS)


def imatrix(
    arguments: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[MODEL] [TEXT]...",
            help="A Hugging Face checkpoint folder or a GGUF file of any format, then calibration text: .txt files, "
            ".jsonl files with `text` or chat `messages`, or folders of them. Without text, the one that ships with "
            "ggquant. Without a model, --in-file is combined.",
        ),
    ] = None,
    output: Annotated[
        Path, _theirs("-o", "--output", "--output-file", help="The file to write.", metavar="FILE")
    ] = Path("imatrix.gguf"),
    context: Annotated[int, _theirs("-c", "--ctx-size", help="Tokens in a chunk.", metavar="N", min=2)] = 512,
    chunks: Annotated[int, _theirs("--chunks", help="Chunks to process at most; -1 for all.", metavar="N")] = -1,
    first_chunk: Annotated[
        int, _theirs("--chunk", "--from-chunk", help="Chunks to leave out at the beginning.", metavar="N", min=0)
    ] = 0,
    output_format: Annotated[OutputFormat, _theirs("--output-format", help="Kind of file.")] = OutputFormat.gguf,
    output_frequency: Annotated[
        int,
        _theirs(
            "--output-frequency",
            help="Write the output every N chunks, too. The model is then read once for every N chunks.",
            metavar="N",
            min=0,
        ),
    ] = 0,
    save_frequency: Annotated[
        int,
        _theirs("--save-frequency", help="Write a copy, FILE.at_N, every N chunks. As above.", metavar="N", min=0),
    ] = 0,
    process_output: Annotated[bool, _theirs("--process-output", help="Cover output.weight as well.")] = False,
    parse_special: Annotated[bool, _theirs("--parse-special", help="Recognize special tokens in the text.")] = False,
    no_ppl: Annotated[bool, _theirs("--no-ppl", help="Do not compute the perplexity.")] = False,
    in_file: Annotated[
        list[Path] | None,
        _theirs("--in-file", help="An earlier importance matrix to add to. Repeatable.", metavar="FILE"),
    ] = None,
    show_statistics: Annotated[
        bool,
        _theirs("--show-statistics", help="Show figures about the importance matrix in --in-file, and end."),
    ] = False,
    threads: Annotated[
        int | None, _theirs("-t", "--threads", help="Number of threads, by default one per core.", metavar="N", min=1)
    ] = None,
    all_experts: Annotated[
        bool,
        _ours(
            "--all-experts",
            help="Count every token for every expert, so that none goes without statistics. Slower.",
        ),
    ] = False,
    activations: Annotated[
        Activations,
        _ours("--activations", help="Arithmetic: exact, or quantized activations as llama.cpp has them."),
    ] = Activations.float32,
    memory: Annotated[
        str | None,
        _ours("--memory", help="Most memory to use; hidden states that do not fit go to a file.", metavar="N(M|G)"),
    ] = None,
    resume: Annotated[
        bool,
        _ours(
            "--resume",
            help="Keep what is done when interrupted, and go on from what an earlier --resume run left.",
        ),
    ] = False,
    pre: Annotated[
        str | None,
        _ours("--pre", help="Name of the pre-tokenizer, where it cannot be found out.", metavar="NAME"),
    ] = None,
    overwrite: Annotated[bool, _ours("--overwrite", help="Replace an existing output.")] = False,
    json_output: Annotated[
        bool, _ours("--json", help="Print the result as JSON, and nothing else, on standard output.")
    ] = False,
    quiet: Annotated[bool, _ours("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:
    """Collect an importance matrix: run calibration text through a model, layer by layer.

    The file is the one that llama-imatrix writes. One layer's weights are in memory at a time.
    """
    from ggquant.calibration.collect import Run, Settings

    files = in_file or []
    if show_statistics:
        _show_statistics([*files, *(arguments or [])], context, json_output=json_output)
        return
    if not arguments:
        _combine(files, output, output_format, context, overwrite=overwrite)
        return
    if chunks == 0 or chunks < -1:
        raise UsageError(f"--chunks {chunks}: give a positive number, or -1 for all")
    run = Run(
        arguments[0],
        arguments[1:],
        output,
        settings=Settings(
            n_ctx=context,
            chunks=None if chunks == -1 else chunks,
            first_chunk=first_chunk,
            process_output=process_output,
            parse_special=parse_special,
            ppl=not no_ppl,
            output_frequency=output_frequency,
            save_frequency=save_frequency,
            all_experts=all_experts,
        ),
        in_files=files,
        output_format=output_format.value,
        overwrite=overwrite,
        memory=parse_size(memory),
        threads=threads,
        activations=activations.value,
        pre=pre,
    )
    for remark in run.remarks:
        say_warning(remark)
    silent = quiet or json_output
    if not silent:
        _show_preflight(run)
    with layer_progress(quiet=silent) as progress:
        result = run.execute(resume=resume, progress=progress)
    _show_result(result, json_output=json_output, quiet=quiet)


def _combine(files: list[Path], output: Path, kind: OutputFormat, context: int, *, overwrite: bool) -> None:
    from ggquant.calibration.statistics import merged, write_statistics

    if not files:
        raise UsageError("give a model and text, or importance matrices to combine with --in-file")
    if output.exists() and not overwrite:
        raise UsageError(f"{output}: exists already; --overwrite replaces it", file=str(output))
    for name in write_statistics(output, merged(files, context), kind.value):
        say_warning(f"tensor '{name}': no data; it is left out")
    print(printable(str(output)))


def _show_preflight(run: Run) -> None:
    needs, chunks = run.needs, run.chunks
    print(f"text: {printable(', '.join(run.text.names))}: {chunks.inputs.size} tokens in {len(chunks)} chunks")
    hidden = f"{size(needs.hidden_bytes)} of hidden states in a file" if needs.spills else "hidden states included"
    print(
        f"{run.model.arch}, {run.model.n_layer} layers: about {size(needs.memory_bytes)} of memory "
        f"({size(needs.block_bytes)} for a layer; {hidden}), about {duration(needs.seconds)}"
    )


def _show_result(result: Collection, *, json_output: bool, quiet: bool) -> None:
    for line in result.gaps.lines():
        say_warning(line)
    if json_output:
        print(json.dumps(_facts(result)))
        return
    if quiet:
        return
    if result.chunk_perplexities:
        print("".join(f"[{i}]{value:.4f}," for i, value in enumerate(result.chunk_perplexities, 1)))
    if result.perplexity is not None and result.perplexity_error is not None:
        print(f"Final estimate: PPL = {result.perplexity:.4f} +/- {result.perplexity_error:.5f}")
    rate = result.tokens / result.seconds if result.seconds > 0 else 0.0
    print(
        f"{len(result.statistics.entries)} tensors, {result.tokens} tokens, {result.seconds:.2f} s, {rate:.0f} tokens/s"
    )
    for path in result.paths:
        print(printable(str(path)))


def _facts(result: Collection) -> dict[str, Any]:
    return {
        "paths": [str(path) for path in result.paths],
        "tensors": {name: [int(n) for n in entry.counts] for name, entry in sorted(result.statistics.entries.items())},
        "texts": list(result.texts),
        "tokens": result.tokens,
        "chunks": result.statistics.chunk_count,
        "ppl": result.perplexity,
        "ppl_stderr": result.perplexity_error,
        "seconds": result.seconds,
        "warnings": result.gaps.lines(),
    }


def _show_statistics(files: list[Path], context: int, *, json_output: bool) -> None:
    from dataclasses import asdict

    from ggquant.calibration.activity import activities, layer_activities
    from ggquant.calibration.statistics import read_statistics

    if len(files) != 1:
        raise UsageError("--show-statistics takes one importance matrix, with --in-file")
    found = activities(read_statistics(files[0], context))
    layers = layer_activities(found)
    if json_output:
        print(json.dumps({"tensors": [asdict(a) for a in found], "layers": [asdict(a) for a in layers]}))
        return
    columns = ("Layer", "Tensor", "Σ(Act²)", "Min", "Max", "μ", "\u03c3", "% Active", "N", "Entropy", "E (norm)", "ZD",
               "CosSim")  # fmt: skip
    rows = [
        (
            "-" if a.layer is None else str(a.layer), a.kind, f"{a.total:.2f}", f"{a.smallest:.4f}", f"{a.largest:.4f}",
            f"{a.mean:.2f}", f"{a.deviation:.2f}", f"{100 * a.active:.2f}%", str(a.columns), f"{a.entropy:.4f}",
            f"{100 * a.normalized_entropy:.2f}%", f"{100 * a.outliers:.2f}%", f"{a.similarity:.4f}",
        )
        for a in found
    ]  # fmt: skip
    out = render.console()
    print(f"Statistics of {printable(str(files[0]))} ({len(found)} tensors)\n")
    out.print(render.table(columns, rows, right=[c for c in columns if c != "Tensor"]))
    print(f"\nAverages by layer, weighted by columns ({len(layers)} layers)\n")
    averages = [(str(a.layer), f"{a.total:.2f}", f"{100 * a.outliers:.4f}%", f"{a.similarity:.4f}") for a in layers]
    headers = ("Layer", "μΣ(Act²)", "μZD", "μCosSim")
    out.print(render.table(headers, averages, right=headers))

"""`ggquant quantize`: a checkpoint or a GGUF file in, a quantized GGUF file out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggquant.cli import render
from ggquant.cli.method import solve
from ggquant.cli.outcome import say_warning
from ggquant.cli.progress import conversion_progress, layer_progress
from ggquant.cli.text import parse_size, printable, size
from ggquant.errors import UsageError

if TYPE_CHECKING:
    from ggquant.imatrix import Imatrix
    from ggquant.metadata import MetaValue
    from ggquant.pipeline import ConversionReport
    from ggquant.planned import Plan
    from ggquant.policy import Options

_AS_THEIRS = "Options of llama-quantize"
_OURS = "Options of ggquant"
_METHOD = "Quantization methods"


def _theirs(*names: str, help: str, metavar: str | None = None, min: int | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, min=min, rich_help_panel=_AS_THEIRS)


def _ours(*names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=_OURS)


def _method(*names: str, help: str, metavar: str | None = None, min: int | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, min=min, rich_help_panel=_METHOD)


def quantize(
    source: Annotated[
        Path,
        typer.Argument(metavar="SRC", help="A Hugging Face checkpoint folder, or a GGUF file (any shard)."),
    ],
    rest: Annotated[
        list[str],
        typer.Argument(
            metavar="[DST] VARIANT [THREADS]",
            help="Output file (by default ggml-model-VARIANT.gguf in the input's folder) and variant, "
            "such as Q4_K_M; `ggquant variants` lists them.",
        ),
    ],
    imatrix: Annotated[
        Path | None,
        _theirs(
            "--imatrix",
            help="Importance matrix: GGUF or legacy .dat of llama-imatrix; `auto` to collect one now, from the text "
            "that ships with ggquant.",
            metavar="FILE|auto",
        ),
    ] = None,
    include_weights: Annotated[
        list[str] | None,
        _theirs(
            "--include-weights",
            help="Use the importance matrix only for tensors whose names contain this.",
            metavar="TEXT",
        ),
    ] = None,
    exclude_weights: Annotated[
        list[str] | None,
        _theirs("--exclude-weights", help="Do not use it for tensors whose names contain this.", metavar="TEXT"),
    ] = None,
    output_tensor_type: Annotated[
        str | None, _theirs("--output-tensor-type", help="Format of output.weight.", metavar="FORMAT")
    ] = None,
    token_embedding_type: Annotated[
        str | None,
        _theirs("--token-embedding-type", help="Format of the token embeddings.", metavar="FORMAT"),
    ] = None,
    tensor_type: Annotated[
        list[str] | None,
        _theirs(
            "--tensor-type",
            help="Format of the tensors in whose names the pattern (a regular expression) is found; "
            "the first that matches wins. Repeatable.",
            metavar="PATTERN=FORMAT",
        ),
    ] = None,
    tensor_type_file: Annotated[
        Path | None,
        _theirs(
            "--tensor-type-file",
            help="A file of such pairs, separated by blanks or new lines.",
            metavar="FILE",
        ),
    ] = None,
    leave_output_tensor: Annotated[
        bool, _theirs("--leave-output-tensor", help="Leave output.weight as it is.")
    ] = False,
    pure: Annotated[bool, _theirs("--pure", help="One format for all tensors, no mixture.")] = False,
    prune_layers: Annotated[
        str | None, _theirs("--prune-layers", help="Leave out these layers.", metavar="L0,L1,...")
    ] = None,
    override_kv: Annotated[
        list[str] | None,
        _theirs(
            "--override-kv",
            help="Set a metadata key of the output; types are int, float, bool, str. Repeatable.",
            metavar="KEY=TYPE:VALUE",
        ),
    ] = None,
    keep_split: Annotated[bool, _theirs("--keep-split", help="Write the same shards as the input has.")] = False,
    allow_requantize: Annotated[
        bool,
        _theirs("--allow-requantize", help="Quantize tensors that are quantized already. This costs quality."),
    ] = False,
    max_buffer_size: Annotated[
        int | None,
        _theirs("--max-buffer-size", help="Most megabytes of weights to hold in memory.", metavar="MiB", min=1),
    ] = None,
    dry_run: Annotated[
        bool, _theirs("--dry-run", help="Plan from headers alone: formats and sizes. Writes nothing.")
    ] = False,
    threads: Annotated[
        int | None, _ours("--threads", help="Number of threads, by default one per core.", metavar="N")
    ] = None,
    split_max_size: Annotated[
        str | None,
        _ours("--split-max-size", help="Split the output into files of at most this size.", metavar="N(M|G)"),
    ] = None,
    split_max_tensors: Annotated[
        int | None,
        _ours("--split-max-tensors", help="Split the output into files of at most N tensors.", metavar="N"),
    ] = None,
    pre: Annotated[
        str | None,
        _ours("--pre", help="Name of the pre-tokenizer, where it cannot be found out.", metavar="NAME"),
    ] = None,
    no_fallback: Annotated[
        bool,
        _ours("--no-fallback", help="Fail if a tensor cannot take the format that the variant asks for."),
    ] = False,
    encoder: Annotated[
        str,
        _ours(
            "--encoder",
            help="auto: blocks whose weights are values of the format already get the codes of these values; lattice: "
            "all blocks must; ordinary: packed weights are encoded anew, too.",
            metavar="NAME",
        ),
    ] = "default",
    redact_paths: Annotated[
        bool, _ours("--redact-paths", help="Store the names of imatrix files without their folders.")
    ] = False,
    also: Annotated[
        list[str] | None,
        _ours("--also", help="Make another variant of the same reading. Repeatable.", metavar="VARIANT=FILE"),
    ] = None,
    recipe: Annotated[
        Path | None,
        _ours("--recipe", help="Formats of tensors: lines PATTERN = FORMAT, with # comments.", metavar="FILE"),
    ] = None,
    recipe_out: Annotated[
        Path | None,
        _ours("--write-recipe", help="Write the format of every tensor as a recipe.", metavar="FILE"),
    ] = None,
    manifest: Annotated[
        bool, _ours("--manifest", help="Write what the output was made from, as JSON beside it.")
    ] = False,
    resume: Annotated[
        bool,
        _ours(
            "--resume",
            help="Keep what is done when interrupted, and go on from what an earlier --resume run left.",
        ),
    ] = False,
    method: Annotated[
        str | None,
        _method(
            "--method",
            help="gptq (errors make up for each other), awq (salient columns are scaled), or awq+gptq.",
            metavar="NAME",
        ),
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        _method("--calibration", help="Text to calibrate with, by default the package's. Repeatable.", metavar="FILE"),
    ] = None,
    chunks: Annotated[
        int | None, _method("--chunks", help="Most chunks of text to use, by default all.", metavar="N", min=1)
    ] = None,
    context: Annotated[int, _method("--context", "-c", help="Tokens in a chunk.", metavar="N", min=2)] = 512,
    effort: Annotated[
        str,
        _method(
            "--effort",
            help="fast, normal or best: how long to look for better codes. `best` takes gradients of the model's "
            "predictions, which models with experts, and encoders, do not have.",
            metavar="NAME",
        ),
    ] = "normal",
    damp: Annotated[
        float | None,
        _method("--damp", help="Added to the diagonal of Hessians, relative to its mean.", metavar="X"),
    ] = None,
    sequential: Annotated[
        bool | None,
        _method(
            "--sequential/--no-sequential",
            help="Later layers see the quantized earlier ones, and make up for them "
            "(the default, but not with --hessians).",
        ),
    ] = None,
    hessians: Annotated[
        Path | None,
        _method(
            "--hessians",
            help="Solve with the Hessians in this file, those of the full-precision model; collect them first where it "
            "is not there. Not with --effort best.",
            metavar="FILE",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        _method("--seed", help="Choose the chunks at random, reproducibly, and the labels for gradients.", metavar="N"),
    ] = None,
    report_file: Annotated[
        Path | None, _method("--report", help="Write what became of each tensor, as JSON.", metavar="FILE")
    ] = None,
    overwrite: Annotated[bool, _ours("--overwrite", help="Replace an existing output.")] = False,
    json_output: Annotated[
        bool,
        _ours("--json", help="Print the plan or the report as JSON, and nothing else, on standard output."),
    ] = False,
    quiet: Annotated[bool, _ours("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:
    """Quantize a checkpoint or a GGUF file, in one streaming pass.

    The output has the bytes of convert_hf_to_gguf.py and llama-quantize, and its name once it is whole.
    """
    import ggquant as gg
    from ggquant.imatrix import load_imatrix
    from ggquant.recipe import parse_recipe, write_recipe
    from ggquant.text_files import write_text

    destination, variant, positional_threads = _positionals(rest)
    options = _options(
        output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type,
        tensor_types=tensor_type or [],
        tensor_type_file=tensor_type_file,
        leave_output_tensor=leave_output_tensor,
        pure=pure,
        prune_layers=prune_layers,
        override_kv=override_kv or [],
        keep_split=keep_split,
        allow_requantize=allow_requantize,
        no_fallback=no_fallback,
        redact_paths=redact_paths,
        encoder=encoder,
    )
    workers = threads if threads is not None else positional_threads
    if imatrix == Path("auto"):
        importances: Imatrix | None = _collected(source, workers, pre, quiet=quiet or json_output)
    else:
        importances = load_imatrix(imatrix) if imatrix is not None else None
    if importances is not None:
        importances = importances.select(include_weights or [], exclude_weights or [])
    lines = parse_recipe(_text(recipe)) if recipe is not None else []
    if dry_run or recipe_out is not None:
        plan = gg.plan(source, variant, imatrix=importances, options=options, pre=pre, recipe=lines)
        if recipe_out is not None:
            write_text(recipe_out, write_recipe(plan), overwrite=overwrite)
    if dry_run:
        _show_plan(plan, json_output=json_output, quiet=quiet)
        return
    if method is not None:
        for given, name in ((also, "--also"), (recipe, "--recipe"), (split_max_size, "--split-max-size"),
                            (split_max_tensors, "--split-max-tensors"), (manifest, "--manifest"),
                            (imatrix, "--imatrix"), (max_buffer_size, "--max-buffer-size")):  # fmt: skip
            if given:
                raise UsageError(f"{name} cannot be used together with --method yet")
        solved = solve(
            source,
            destination,
            variant,
            method=method,
            calibration=calibration or [],
            chunks=chunks,
            context=context,
            effort=effort,
            damp=damp,
            sequential=sequential,
            hessians=hessians,
            seed=seed,
            options=options,
            pre=pre,
            threads=threads if threads is not None else positional_threads,
            overwrite=overwrite,
            resume=resume,
            report_file=report_file,
            quiet=quiet or json_output,
        )
        _show_report(solved, json_output=json_output, quiet=quiet)
        return
    with conversion_progress(quiet=quiet or json_output) as progress:
        report = gg.convert(
            source,
            destination,
            variant,
            imatrix=importances,
            threads=workers,
            progress=progress,
            overwrite=overwrite,
            options=options,
            pre=pre,
            split_max_size=parse_size(split_max_size),
            split_max_tensors=split_max_tensors,
            also=_also(also or []),
            recipe=lines,
            manifest=manifest,
            resume=resume,
            max_buffer_size=max_buffer_size,
        )
    _show_report(report, json_output=json_output, quiet=quiet)
    if not json_output:
        for other in report.also.values():
            _show_report(other, json_output=False, quiet=quiet)


def _also(pairs: list[str]) -> dict[str, Path]:
    made: dict[str, Path] = {}
    for pair in pairs:
        variant, sep, path = pair.partition("=")
        if not (variant and sep and path):
            raise UsageError(f"--also '{pair}': expected VARIANT=FILE, for example Q5_K_M=model-q5.gguf")
        if variant in made:
            raise UsageError(f"--also: {variant} is given twice")
        made[variant] = Path(path)
    return made


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file") from None


def _positionals(rest: list[str]) -> tuple[Path | None, str, int | None]:
    """`[DST] VARIANT [THREADS]`, told apart as llama-quantize does: a variant's name first means no DST."""
    from ggquant.policy import find_variant

    if _is_variant(rest[0]):
        destination, words = None, rest
    else:
        destination, words = Path(rest[0]), rest[1:]
        if not words:
            # One word that is no variant: more likely a misspelt variant than an output without one.
            find_variant(rest[0])
    if len(words) > 2:
        raise UsageError(f"too many arguments: {' '.join(words[2:])}")
    find_variant(words[0])
    threads = None
    if len(words) == 2:
        if not (words[1].isascii() and words[1].isdigit() and int(words[1]) > 0):
            raise UsageError(f"'{words[1]}' is not a number of threads")
        threads = int(words[1])
    return destination, words[0], threads


def _is_variant(word: str) -> bool:
    from ggquant.policy import find_variant

    try:
        find_variant(word)
    except ValueError:
        return False
    return True


def _options(
    *,
    tensor_types: list[str],
    tensor_type_file: Path | None,
    prune_layers: str | None,
    override_kv: list[str],
    **others: Any,
) -> Options:
    from ggquant.overrides import (
        Options,
        parse_override_kv,
        parse_prune_layers,
        parse_tensor_type,
        parse_tensor_type_file,
    )

    types = [parse_tensor_type(text) for text in tensor_types]
    if tensor_type_file is not None:
        types += parse_tensor_type_file(tensor_type_file.read_text("utf-8"))
    pruned = () if prune_layers is None else parse_prune_layers(prune_layers)
    overrides: dict[str, MetaValue] = {}
    for key, value in map(parse_override_kv, override_kv):
        overrides.pop(key, None)  # the last of several counts, in its place
        overrides[key] = value
    return Options(tensor_types=types, prune_layers=pruned, overrides=overrides, **others)


def _collected(source: Path, threads: int | None, pre: str | None, *, quiet: bool) -> Imatrix:
    from ggquant.calibration.auto import auto_imatrix

    with layer_progress(quiet=quiet) as progress:
        return auto_imatrix(source, threads=threads, pre=pre, progress=progress)


def _show_plan(plan: Plan, *, json_output: bool, quiet: bool) -> None:
    for warning in plan.warnings:
        say_warning(warning)
    if json_output:
        print(json.dumps(_facts(plan)))
    elif not quiet:
        out = render.console()
        out.print(render.plan_table(plan.tensors))
        _print_totals(plan)


def _show_report(report: ConversionReport, *, json_output: bool, quiet: bool) -> None:
    for warning in report.warnings:
        say_warning(warning)
    if json_output:
        facts = _facts(report)
        facts["paths"] = [str(path) for path in report.paths]
        facts["seconds"] = report.seconds
        facts["isa"] = report.isa
        facts["warnings"] = report.warnings
        facts["on_grid"] = report.on_grid
        if report.also:
            facts["also"] = {
                name: {**_facts(other), "paths": [str(path) for path in other.paths]}
                for name, other in report.also.items()
            }
        print(json.dumps(facts))
    elif not quiet:
        out = render.console()
        out.print(render.plan_table(report.tensors))
        _print_totals(report)
        _print_on_grid(report)
        rate = report.total_bytes / report.seconds if report.seconds > 0 else 0.0
        print(f"{report.seconds:.2f} s, {size(rate)}/s written, instruction set: {report.isa}")
        for path in report.paths:
            print(printable(str(path)))


def _print_on_grid(report: ConversionReport) -> None:
    """The share of blocks whose weights were values of the format, by format."""
    from ggquant.registry import format_info

    blocks: dict[str, tuple[int, int]] = {}
    for tensor in report.tensors:
        if (own := report.on_grid.get(tensor.name)) is not None:
            found, searched = blocks.get(tensor.format, (0, 0))
            block_len = format_info(tensor.format).block_len
            blocks[tensor.format] = found + own, searched + render.count(tensor.shape) // block_len
    for format, (found, searched) in blocks.items():
        share = 100 * found / max(1, searched)
        print(f"{share:.2f} % of {searched:,} blocks of {format} kept the codes of their own values")


def _facts(made: Plan | ConversionReport) -> dict[str, Any]:
    """What `--json` prints of a plan; a report adds to it."""
    return {
        "tensors": [
            {
                "name": t.name,
                "shape": list(t.shape),
                "from": t.source,
                "to": t.format,
                "bytes": t.nbytes,
                "why": t.why if t.fallback is None else f"{t.why}; {t.fallback}",
                **({"transcoding": t.transcoding} if t.transcoding is not None else {}),
            }
            for t in made.tensors
        ],
        "total_bytes": made.total_bytes,
        "bits_per_weight": made.bits_per_weight,
    }


def _print_totals(made: Plan | ConversionReport) -> None:
    out = render.console()
    out.print()
    out.print(render.format_shares(made.tensors))
    out.print()
    if made.fallbacks:
        weights = sum(render.count(t.shape) for t in made.tensors)
        fallen = sum(render.count(t.shape) for t in made.fallbacks)
        print(
            f"{len(made.fallbacks)} tensors ({100 * fallen / weights:.1f} % of the weights) could not take "
            "the format that the variant asks for:"
        )
        rows = ((t.name, t.wanted, t.format, t.fallback or "") for t in made.fallbacks)
        out.print(render.table(("tensor", "wanted", "got", "why"), rows))
        out.print()
    kinds = Counter(t.transcoding for t in made.tensors if t.transcoding is not None)
    if kinds:
        print("Weights that are quantized already:")
        for kind, number in kinds.most_common():
            print(f"  {number} tensors {kind}")
        print()
    print(f"{len(made.tensors)} tensors, {size(made.total_bytes)}, {made.bits_per_weight:.3f} bits per weight")

"""Commands about GGUF files: `inspect`, `verify`, `split`, `merge`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggquant.cli import render
from ggquant.cli.outcome import FAILED
from ggquant.cli.progress import copying_progress
from ggquant.cli.text import parse_size, printable, size
from ggquant.errors import UsageError

if TYPE_CHECKING:
    from ggquant.gguf import GGUFFile

_FileOrFolder = Annotated[
    Path, typer.Argument(metavar="FILE", help="A GGUF file (of a split model, any shard), or a checkpoint's folder.")
]
_File = Annotated[Path, typer.Argument(metavar="FILE", help="A GGUF file; of a split model, any shard.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]


def inspect(
    file: _FileOrFolder,
    tensors: Annotated[bool, typer.Option("--tensors", help="Only the tensors.")] = False,
    metadata: Annotated[bool, typer.Option("--metadata", help="Only the metadata.")] = False,
    json_output: _Json = False,
) -> None:
    """Show a file's metadata and tensors, reading headers only; of a checkpoint, how its matrices are packed."""
    import ggquant as gg

    both = tensors == metadata
    if file.is_dir() or file.suffix == ".safetensors":
        from ggquant.cli.checkpoint import inspect_checkpoint

        inspect_checkpoint(file, tensors=tensors or both, metadata=metadata or both, json_output=json_output)
        return
    opened = gg.open(file)
    if json_output:
        print(json.dumps(_facts(opened, tensors=tensors or both, metadata=metadata or both), allow_nan=False))
        return
    out = render.console()
    shards = f", {len(opened.shards)} shards" if len(opened.shards) > 1 else ""
    print(
        f"{printable(str(file))}: GGUF v{opened.version}, {opened.byte_order}-endian, "
        f"alignment {opened.alignment}{shards}"
    )
    if metadata or both:
        out.print()
        out.print(render.metadata_table(opened.metadata))
    if tensors or both:
        rows = (
            (t.name, render.shape(t.shape), t.format, size(t.nbytes), str(t.offset), str(t.shard + 1))
            for t in opened.tensors.values()
        )
        out.print()
        out.print(
            render.table(
                ("tensor", "shape", "format", "size", "offset", "shard"),
                rows,
                right=("shape", "size", "offset", "shard"),
            )
        )
    out.print()
    out.print(render.format_shares(opened.tensors.values()))
    weights = sum(render.count(t.shape) for t in opened.tensors.values())
    nbytes = _bytes(opened)
    bits = f", {8 * nbytes / weights:.3f} bits per weight" if weights else ""
    print(f"\n{len(opened.tensors)} tensors, {weights:,} weights, {size(nbytes)}{bits}")


def verify(
    file: _File,
    threads: Annotated[int | None, typer.Option("--threads", help="Number of threads.", metavar="N")] = None,
    json_output: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Check a file: its structure and bounds, and every row's data (finite scales, valid codes).

    Exits with 1 if anything is wrong, one line a finding.
    """
    import ggquant as gg

    findings = gg.verify(file, threads=threads)
    if json_output:
        facts = [
            {"file": str(f.file), "tensor": f.tensor, "row": f.row, "block": f.block, "what": f.what} for f in findings
        ]
        print(json.dumps({"ok": not findings, "findings": facts}))
    elif not quiet:
        for f in findings:
            print(printable(str(f)))
        if not findings:
            print(f"{printable(str(file))}: ok")
    if findings:
        raise typer.Exit(FAILED)


def split(
    file: _File,
    prefix: Annotated[
        Path,
        typer.Argument(metavar="PREFIX", help="Start of the names: PREFIX-00001-of-00003.gguf and so on."),
    ],
    split_max_size: Annotated[
        str | None, typer.Option("--split-max-size", help="Largest size of a file.", metavar="N(M|G)")
    ] = None,
    split_max_tensors: Annotated[
        int | None,
        typer.Option("--split-max-tensors", help="Most tensors of a file [default: 128].", metavar="N"),
    ] = None,
    no_tensor_first_split: Annotated[
        bool, typer.Option("--no-tensor-first-split", help="Metadata alone in the first file.")
    ] = False,
    overwrite: _Overwrite = False,
    quiet: _Quiet = False,
) -> None:
    """Split a file into shards, named and marked as gguf-split does."""
    import ggquant as gg

    if split_max_size is not None and split_max_tensors is not None:
        raise UsageError("--split-max-size and --split-max-tensors cannot be used together")
    if split_max_size is None and split_max_tensors is None:
        split_max_tensors = 128
    with copying_progress(_bytes(gg.open(file)), quiet=quiet) as progress:
        paths = gg.split(
            file,
            prefix,
            max_size=parse_size(split_max_size),
            max_tensors=split_max_tensors,
            no_tensor_first_split=no_tensor_first_split,
            overwrite=overwrite,
            progress=progress,
        )
    if not quiet:
        for path in paths:
            print(printable(str(path)))


def merge(
    file: Annotated[Path, typer.Argument(metavar="SHARD", help="Any shard of a split model.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The file to write.")],
    overwrite: _Overwrite = False,
    quiet: _Quiet = False,
) -> None:
    """Join the shards of a split model into one file."""
    import ggquant as gg

    with copying_progress(_bytes(gg.open(file)), quiet=quiet) as progress:
        gg.merge(file, destination, overwrite=overwrite, progress=progress)
    if not quiet:
        print(printable(str(destination)))


def _bytes(opened: GGUFFile) -> int:
    return sum(t.nbytes for t in opened.tensors.values())


def _facts(opened: GGUFFile, *, tensors: bool, metadata: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "version": opened.version,
        "byte_order": opened.byte_order,
        "alignment": opened.alignment,
        "shards": [str(shard) for shard in opened.shards],
    }
    if metadata:
        facts["metadata"] = {key: _plain(value) for key, value in opened.metadata.items()}
    if tensors:
        facts["tensors"] = [
            {
                "name": t.name,
                "shape": list(t.shape),
                "format": t.format,
                "bytes": t.nbytes,
                "offset": t.offset,
                "shard": t.shard,
            }
            for t in opened.tensors.values()
        ]
    return facts


def _plain(value: Any) -> Any:
    """A metadata value as JSON has it: arrays as lists, and infinities, which JSON lacks, as text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

"""`ggquant compare`: the weights of two files, tensor by tensor."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggquant.cli import render
from ggquant.cli.outcome import say_warning
from ggquant.cli.progress import work_progress
from ggquant.errors import UsageError

if TYPE_CHECKING:
    from ggquant.evaluation.tensors import Comparison, TensorDifference

_KEYS = {"error": "relative_error", "weighted": "weighted_error", "rmse": "rmse", "max": "max_error"}
_ORDERS = (*_KEYS, "cosine", "file")
#: Characters of the longest bar.
_BAR = 20
_EIGHTHS = " ▏▎▍▌▋▊▉"


def compare(
    original: Annotated[Path, typer.Argument(metavar="A", help="The original: a checkpoint's folder or a GGUF file.")],
    made: Annotated[Path, typer.Argument(metavar="B", help="What was made of it.")],
    imatrix: Annotated[
        Path | None, typer.Option("--imatrix", metavar="FILE", help="Weight errors by these importances, too.")
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="KEY", help=f"Largest first, by one of: {', '.join(_ORDERS)}.")
    ] = "error",
    top: Annotated[int | None, typer.Option("--top", metavar="N", min=1, help="Show the first N tensors.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", metavar="N", help="Number of threads.")] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Compare the weights of two files of one model, tensor by tensor: formats, bits per weight, errors."""
    import ggquant as gg

    if sort not in _ORDERS:
        raise UsageError(f"--sort {sort}: choose one of {', '.join(_ORDERS)}")
    with work_progress(quiet=quiet or json_output) as progress:
        report = None if progress is None else lambda name, done, total: progress(done, total, name)
        made_of = gg.compare(original, made, imatrix=imatrix, threads=threads, progress=report)
    _warn(made_of, original, made)
    tensors = _sorted(made_of.tensors, sort)[:top]
    if json_output:
        print(json.dumps(_facts(made_of, tensors)))
        return
    _show(made_of, tensors, sort)


def _warn(made_of: Comparison, original: Path, made: Path) -> None:
    for path, names in ((original, made_of.only_in_a), (made, made_of.only_in_b)):
        if names:
            say_warning(f"{path}: {len(names)} tensors are in this one alone: {_some(names)}")
    for name, (a, b) in made_of.differing_shapes.items():
        say_warning(f"tensor '{name}': {render.shape(a)} and {render.shape(b)} cannot be compared")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _sorted(tensors: list[TensorDifference], sort: str) -> list[TensorDifference]:
    if sort == "file":
        return tensors
    if sort == "cosine":
        return sorted(tensors, key=lambda t: t.cosine)
    return sorted(tensors, key=lambda t: getattr(t, _KEYS[sort]) or 0.0, reverse=True)


def _facts(made_of: Comparison, tensors: list[TensorDifference]) -> dict[str, Any]:
    entries = []
    for t in tensors:
        entry = asdict(t) | {"shape": list(t.shape), "from": t.formats[0], "to": t.formats[1]}
        del entry["formats"]
        # JSON has no infinity.
        entries.append({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()})
    return {
        "tensors": entries,
        "relative_error": made_of.relative_error,
        "only_in_a": made_of.only_in_a,
        "only_in_b": made_of.only_in_b,
        "differing_shapes": {n: [list(a), list(b)] for n, (a, b) in made_of.differing_shapes.items()},
    }


def _show(made_of: Comparison, tensors: list[TensorDifference], sort: str) -> None:
    weighted = any(t.weighted_error is not None for t in tensors)
    key = _KEYS.get(sort, "relative_error")
    longest = max((v for t in tensors if math.isfinite(v := getattr(t, key) or 0.0)), default=0.0)
    columns = ["tensor", "from", "to", "bpw", "rmse", "error", "cosine", "max", *(["weighted"] if weighted else []), ""]
    rows = []
    for t in tensors:
        row = [t.name, *t.formats, f"{t.bits_per_weight:.3f}", f"{t.rmse:.3g}", _percent(t.relative_error)]
        row += [f"{t.cosine:.6f}", f"{t.max_error:.3g}"]
        row += [_percent(t.weighted_error)] if weighted else []
        rows.append([*row, _bar(getattr(t, key) or 0.0, longest)])
    out = render.console()
    out.print(render.table(columns, rows, right=("bpw", "rmse", "error", "cosine", "max", "weighted")))
    weights = sum(t.weights for t in made_of.tensors)
    bits = sum(t.weights * t.bits_per_weight for t in made_of.tensors) / max(weights, 1)
    print(
        f"\n{len(made_of.tensors)} tensors, {weights:,} weights, {bits:.3f} bits per weight, "
        f"relative error {_percent(made_of.relative_error)} over all weights"
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3f} %"


def _bar(value: float, longest: float) -> str:
    eighths = round(8 * _BAR * min(value / longest, 1.0)) if longest > 0 else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()

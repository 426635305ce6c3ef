"""Manifests: what a file was made from and how, as JSON beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggquant._native import __version__
from ggquant.recipe import write_recipe
from ggquant.text_files import write_text

if TYPE_CHECKING:
    from ggquant.planned import Plan
    from ggquant.policy import Options

_CHUNK = 1 << 20


def manifest(plan: Plan, inputs: Iterable[str], imatrix: str | None, options: Options) -> dict[str, Any]:
    """Inputs with their sizes and hashes, version, variant, options, importance matrix and recipe.

    Raises:
        OSError: an input cannot be read.
    """
    return {
        "ggquant": __version__,
        "variant": plan.variant,
        "inputs": [_file(Path(path), options.redact_paths) for path in inputs],
        "imatrix": _file(Path(imatrix), options.redact_paths) if imatrix is not None else None,
        "options": {
            "output_tensor_type": options.output_tensor_type,
            "token_embedding_type": options.token_embedding_type,
            "tensor_types": [str(t) for t in options.patterns],
            "leave_output_tensor": options.leave_output_tensor,
            "pure": options.pure,
            "prune_layers": list(options.prune_layers),
            "allow_requantize": options.allow_requantize,
            "keep_split": options.keep_split,
            "no_fallback": options.no_fallback,
            "redact_paths": options.redact_paths,
            "override_kv": {key: [value.type, str(value.value)] for key, value in options.overrides.items()},
        },
        "recipe": write_recipe(plan).splitlines()[2:],
    }


def manifest_path(output: Path) -> Path:
    """Where the manifest of `output` goes: beside it, with `.json` added to its name."""
    return output.with_name(output.name + ".json")


def write_manifest(output: Path, content: dict[str, Any], *, overwrite: bool) -> None:
    """Writes a manifest beside `output`.

    Raises:
        FileError: it exists and `overwrite` is not set, or the system refused.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_text(manifest_path(output), text, overwrite=overwrite)


def _file(path: Path, redact: bool) -> dict[str, Any]:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"file": path.name if redact else str(path), "bytes": size, "sha256": digest.hexdigest()}

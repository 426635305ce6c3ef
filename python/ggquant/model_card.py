"""`general.*` metadata: what the model card, the configuration and the folder's name say about a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ggquant.bounded_json import MAX_CONFIG_BYTES, read_object, read_text
from ggquant.errors import MalformedFileError
from ggquant.metadata import MetaValue
from ggquant.model import MetaDict, SourceTensor
from ggquant.model_name import NameParts, dissect, title

_SAMPLING = (
    ("sequence", "STRING", ("sequence",)),
    ("top_k", "INT32", ("top_k",)),
    ("top_p", "FLOAT32", ("top_p",)),
    ("min_p", "FLOAT32", ("min_p",)),
    ("xtc_probability", "FLOAT32", ("xtc_probability",)),
    ("xtc_threshold", "FLOAT32", ("xtc_threshold",)),
    ("temp", "FLOAT32", ("temperature",)),
    ("penalty_last_n", "INT32", ("penalty_last_n",)),
    ("penalty_repeat", "FLOAT32", ("penalty_repeat", "repetition_penalty")),
    ("mirostat", "INT32", ("mirostat",)),
    ("mirostat_tau", "FLOAT32", ("mirostat_tau",)),
    ("mirostat_eta", "FLOAT32", ("mirostat_eta",)),
)
"""Sampler settings in writing order: key under `general.sampling`, type, names in generation_config.json."""

_CARD_FIELDS = (
    ("name", ("name", "model_name")),
    ("author", ("author", "model_author", "model_creator")),
    ("version", ("version", "model_version")),
    ("organization", ("organization", "model_organization")),
    ("finetune", ("finetune", "model_finetune")),
    ("basename", ("basename", "model_basename", "model_type")),
    ("description", ("description", "model_description")),
    ("size_label", ("size_label", "model_size_label")),
    ("license", ("license",)),
    ("license.name", ("license_name",)),
    ("license.link", ("license_link",)),
    ("source.url", ("url", "model_url")),
    ("source.doi", ("doi", "model_doi")),
    ("source.uuid", ("uuid", "model_uuid")),
    ("source.repo_url", ("repo_url", "model_repo_url")),
)
"""Keys under `general` and the model card's names for them, the first one present counts."""

_WRITTEN = (
    "name", "author", "version", "organization", "finetune", "basename", "description", "size_label",
    "license", "license.name", "license.link",
    "source.url", "source.doi", "source.uuid", "source.repo_url",
)  # fmt: skip

_RELATED_FIELDS = (
    "name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url",
)  # fmt: skip

_HUB_MODEL = re.compile(r"https?://huggingface.co/([^/]+/[^/]+)$")


def describe(folder: Path, tensors: Sequence[SourceTensor], warnings: list[str]) -> MetaDict:
    """`general.type`, the sampler's settings, names, licence, origin, tags and languages, in writing order.

    Args:
        folder: the checkpoint's folder; README.md, config.json and generation_config.json may be in it.
        tensors: of the model, for its size.
        warnings: gets a line for each thing that could not be used.
    """
    parameters = sum(tensor.elements for tensor in tensors)
    metadata: MetaDict = {"general.type": MetaValue("STRING", "model")}
    _sampling(folder, metadata, warnings)
    card = _front_matter(folder / "README.md", warnings)
    fields = _fields(card, folder, parameters)
    fields.setdefault("name", folder.absolute().name)
    if parameters > 0:
        fields.setdefault("size_label", size_label(tensors))
    for name in _WRITTEN:
        value = fields.get(name)
        if isinstance(value, list):
            value = ",".join(str(item) for item in value)
        if value:
            metadata[f"general.{name}"] = MetaValue("STRING", str(value))
    _related(
        metadata,
        "base_model",
        _first(card, "base_model", "base_models", "base_model_sources"),
        card,
        parameters,
    )
    _related(metadata, "dataset", _first(card, "datasets", "dataset", "dataset_sources"), card, parameters)
    for name, sources in (("tags", ("tags", "pipeline_tag")), ("languages", ("languages", "language"))):
        items = [_text(item) for source in sources for item in _as_list(card.get(source))]
        if items:
            metadata[f"general.{name}"] = MetaValue("ARRAY", items, "STRING")
    return metadata


def size_label(tensors: Iterable[SourceTensor]) -> str:
    """The model's size for people, such as `7.2B`, or `8x7B` where experts share a trunk."""
    total = shared = expert = expert_sum = expert_tensors = 0
    for tensor in tensors:
        size = tensor.elements
        total += size
        if "_exps." in tensor.name and len(tensor.shape) >= 3:
            count = tensor.shape[-2 if ".bias" in tensor.name else -3]
            expert += size // count
            expert_sum += count
            expert_tensors += 1
        else:
            shared += size
    if expert_tensors and expert_sum // expert_tensors > 0:
        return f"{expert_sum // expert_tensors}x{_rounded(shared + expert)}"
    return _rounded(total)


_UNITS = ((1e12, 1e-12, "T"), (1e9, 1e-9, "B"), (1e6, 1e-6, "M"), (-1, 1e-3, "K"))


def _rounded(count: int) -> str:
    scaled, suffix = next((count * unit, suffix) for limit, unit, suffix in _UNITS if count > limit)
    digits = len(str(round(scaled)).lstrip("0"))
    return f"{scaled:.{max(2 - digits, 0)}f}{suffix}"


def _sampling(folder: Path, metadata: MetaDict, warnings: list[str]) -> None:
    path = folder / "generation_config.json"
    if not path.is_file():
        return
    try:
        settings = read_object(path)
    except MalformedFileError as error:
        warnings.append(f"{error}; sampler settings are left out")
        return
    for key, kind, sources in _SAMPLING:
        value = next((settings[name] for name in sources if name in settings), None)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str if kind == "STRING" else int | float):
            warnings.append(f"{path}: {sources[0]} is {value!r}; left out")
            continue
        if kind == "INT32" and (not isinstance(value, int) or not -(1 << 31) <= value < 1 << 31):
            warnings.append(f"{path}: {sources[0]} is {value!r}, not a 32-bit whole number; left out")
            continue
        if kind != "STRING" or value:
            metadata[f"general.sampling.{key}"] = MetaValue(kind, float(value) if kind == "FLOAT32" else value)


def _front_matter(path: Path, warnings: list[str]) -> dict[str, Any]:
    """The YAML block between `---` lines at the top of a model card."""
    if not path.is_file():
        return {}
    lines = read_text(path, MAX_CONFIG_BYTES).splitlines()
    if not lines or lines[0] != "---":
        return {}
    block = lines[1 : lines.index("---", 1)] if "---" in lines[1:] else lines[1:]
    # `no` is Norwegian in a list of languages, not false; and YAML knows no tabs.
    text = ("\n".join(block) + "\n").replace("- no\n", '- "no"\n').replace("\t", "  ")
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses aliases, which let a few lines stand for gigabytes."""

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not followed")
            return super().compose_node(parent, index)

    try:
        data = yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        warnings.append(f"{path}: the front matter is not valid YAML ({type(error).__name__}); it is left out")
        return {}
    return data if isinstance(data, dict) else {}


def _fields(card: dict[str, Any], folder: Path, parameters: int) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, sources in _CARD_FIELDS:
        for source in sources:
            if fields.get(name) is None and source in card:
                fields[name] = card[source]
    config = folder / "config.json"
    origin = read_object(config).get("_name_or_path") if config.is_file() else None
    identifiers = [origin] if isinstance(origin, str) and origin.count("/") <= 1 else []
    for identifier in (*identifiers, folder.absolute().name):
        parts = dissect(identifier, parameters)
        for name, value in _titled(parts).items():
            if fields.get(name) is None:
                fields[name] = value
    return {name: value for name, value in fields.items() if value is not None}


def _titled(parts: NameParts) -> dict[str, str | None]:
    return {
        "name": None if parts.name is None else title(parts.name),
        "organization": None if parts.organization is None else title(parts.organization),
        "basename": parts.basename,
        "finetune": parts.finetune,
        "version": parts.version,
        "size_label": parts.size_label,
    }


def _related(metadata: MetaDict, kind: str, value: Any, card: dict[str, Any], parameters: int) -> None:
    """`general.base_model.*` or `general.dataset.*`: how many, and what is known about each."""
    present = {"base_model": ("base_model", "base_models", "base_model_sources")}.get(
        kind, ("datasets", "dataset", "dataset_sources")
    )
    if not any(name in card for name in present):
        return
    entries = [_related_entry(item, parameters) for item in _as_list(value)]
    metadata[f"general.{kind}.count"] = MetaValue("UINT32", len(entries))
    for index, entry in enumerate(entries):
        for name in _RELATED_FIELDS:
            if entry.get(name):
                metadata[f"general.{kind}.{index}.{name}"] = MetaValue("STRING", str(entry[name]))


def _related_entry(item: Any, parameters: int) -> dict[str, Any]:
    if isinstance(item, dict):
        return item
    if not isinstance(item, str):
        return {}
    entry: dict[str, Any] = {}
    identifier: str | None = item
    if item.startswith(("http://", "https://", "ssh://")):
        entry["repo_url"] = item
        found = _HUB_MODEL.match(item)
        identifier = found.group(1) if found else None
    if identifier is not None:
        parts = dissect(identifier, parameters)
        known = _titled(parts)
        entry |= {name: known[name] for name in ("name", "organization", "version") if known[name] is not None}
        if "repo_url" not in entry and parts.organization is not None and parts.name is not None:
            entry["repo_url"] = f"https://huggingface.co/{parts.organization}/{parts.name}"
    return entry


def _text(item: Any) -> str:
    return "no" if item is False else str(item)  # YAML takes the code of Norwegian for a negation


def _first(card: dict[str, Any], *names: str) -> Any:
    return next((card[name] for name in names if name in card), None)


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [value]
    return list(value) if isinstance(value, list) else []

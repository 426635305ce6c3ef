"""The model families. Adding one: write its file, add its line here."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from ggquant.architectures.family import Family
from ggquant.architectures.graph import Graph
from ggquant.errors import UnsupportedError

_FILES = (
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "gemma2",
    "gemma3",
    "phi3",
    "gpt2",
    "starcoder2",
    "olmo2",
    "granite",
    "gpt_oss",
    "bert",
    "xlm_roberta",
)


def families() -> tuple[Family, ...]:
    """Every family, in the registry's order."""
    return tuple(import_module(f"ggquant.architectures.{name}").FAMILY for name in _FILES)


def family_of(architecture: str, source: str) -> Family:
    """The family that converts an architecture of config.json.

    Raises:
        UnsupportedError: none does; the nearest known names are listed.
    """
    known = {name: family for family in families() for name in family.architectures}
    if architecture in known:
        return known[architecture]
    near = get_close_matches(architecture, known, n=5, cutoff=0.4) or sorted(known)
    raise UnsupportedError(
        f"{source}: architecture {architecture!r} is not supported; the nearest known are {', '.join(near)}",
        file=source,
    )


def graph_of(arch: str, source: str) -> Graph:
    """The forward pass of a GGUF architecture.

    Raises:
        UnsupportedError: it is not known.
    """
    known = {family.name: family.graph for family in reversed(families())}
    if arch in known:
        return known[arch]
    raise UnsupportedError(
        f"{source}: models of architecture {arch!r} cannot be run; those that can are {', '.join(sorted(known))}",
        file=source,
    )

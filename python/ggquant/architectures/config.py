"""A model's hyperparameters: config.json with the defaults that its family has in transformers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ggquant.errors import CheckpointError
from ggquant.tokenizers.files import TokenizerFiles


class Config:
    """Hyperparameters by name, with the folder they came from for whatever else a family must look at."""

    def __init__(self, values: Mapping[str, Any], path: Path, architecture: str) -> None:
        self.values = dict(values)
        self.architecture = architecture
        self.path = path
        self.folder = path.parent

    def first(self, *names: str) -> Any:
        """The value under the first of `names` that is there at all; None where none is."""
        return next((self.values[name] for name in names if name in self.values), None)

    def integer(self, *names: str) -> int:
        """A required whole number."""
        value = self.first(*names)
        if type(value) is not int:
            raise self.wrong(names[0], "a whole number")
        return value

    def positive(self, *names: str) -> int:
        """A required whole number above zero that a tensor's axis could have as its size."""
        value = self.integer(*names)
        if not 0 < value < 1 << 40:
            raise self.wrong(names[0], "a positive size")
        return value

    def table(self, name: str) -> dict[str, Any]:
        """An object, empty where it is absent or null."""
        value = self.values.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return value

    def wrong(self, name: str, wanted: str) -> CheckpointError:
        """The error for a value that is missing or of another kind than `wanted`."""
        found = f"is {self.values[name]!r}, not {wanted}" if name in self.values else f"is missing; need {wanted}"
        return CheckpointError(f"{self.path}: {name!r} {found}", file=str(self.path))

    @cached_property
    def files(self) -> TokenizerFiles:
        """The tokenizer files beside the configuration."""
        return TokenizerFiles(self.folder)

    @property
    def head_dim(self) -> int:
        """Width of one attention head: as given, or the hidden size shared evenly."""
        if self.values.get("head_dim") is not None:
            return self.positive("head_dim")
        return self.positive("hidden_size", "n_embd") // self.positive("num_attention_heads", "n_head")

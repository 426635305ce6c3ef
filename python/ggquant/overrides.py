"""Options that change a variant's decisions, and the patterns that name tensors.

Patterns mean what they mean to llama-quantize: lower-cased, an ECMAScript regular expression, searched
anywhere in the tensor's name. What would mean something else here than there is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NoReturn

from .ecmascript import PatternError, ecmascript_to_python
from .errors import UsageError
from .metadata import MetaValue
from .tensor_types import Kind, format_facts

__all__ = [
    "Options",
    "OverrideError",
    "TensorType",
    "parse_override_kv",
    "parse_prune_layers",
    "parse_tensor_type",
    "parse_tensor_type_file",
]

#: Longest key and text of an override: llama-quantize's buffers have 128 bytes.
_OVERRIDE_BYTES = 127


class OverrideError(UsageError):
    """An option that cannot be honoured; the message names it and says what to write instead."""


def parse_target(name: str, option: str) -> str:
    """The canonical name of a format given by the user for `option`; OverrideError if nothing can be stored
    as it."""
    try:
        facts = format_facts(name)
    except ValueError as e:
        raise OverrideError(f"{option}: {e}") from None
    if not facts.is_target:
        kind = "exists only inside matrix multiplication" if facts.kind is Kind.ACTIVATION else "is not for weights"
        raise OverrideError(f"{option}: {facts.name} {kind}; choose a format that files store")
    return facts.name


@dataclass(frozen=True)
class TensorType:
    """`--tensor-type PATTERN=FORMAT`: tensors whose names the pattern is found in take the format."""

    pattern: str
    format: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", parse_target(self.format, f"--tensor-type {self.pattern}"))
        _ = self._compiled  # a bad pattern is found when it is given, not when it is used

    @cached_property
    def _compiled(self) -> re.Pattern[bytes]:
        try:
            return re.compile(ecmascript_to_python(self.pattern))
        except (PatternError, re.error, OverflowError) as e:
            raise OverrideError(f"--tensor-type {self.pattern}: {e}") from None

    def matches(self, name: str) -> bool:
        """Whether the pattern is found in `name`."""
        return self._compiled.search(name.encode("utf-8", "surrogatepass")) is not None

    def __str__(self) -> str:
        return f"{self.pattern}={self.format}"


def parse_tensor_type(text: str) -> TensorType:
    """Reads `PATTERN=FORMAT`; everything before the first `=` is the pattern."""
    pattern, sep, format_name = text.partition("=")
    if not sep or not pattern or not format_name:
        raise OverrideError(f"--tensor-type '{text}': expected PATTERN=FORMAT, for example attn_v=q6_k")
    return TensorType(pattern, format_name)


def parse_tensor_type_file(text: str) -> list[TensorType]:
    """Reads the contents of a `--tensor-type-file`: entries separated by white space."""
    return [parse_tensor_type(entry) for entry in text.split()]


def parse_prune_layers(text: str) -> tuple[int, ...]:
    """Reads `--prune-layers 3,4,5`: sorted, each layer once."""
    layers: set[int] = set()
    for part in text.split(","):
        if not (part.strip().isascii() and part.strip().isdigit()):
            raise OverrideError(f"--prune-layers '{text}': '{part}' is not a layer number")
        layers.add(int(part))
    return tuple(sorted(layers))


def parse_override_kv(text: str) -> tuple[str, MetaValue]:
    """Reads `--override-kv KEY=TYPE:VALUE` with the types `int`, `float`, `bool` and `str`.

    Integers become UINT32 without their sign, as llama-quantize stores them.
    """

    def fail(why: str) -> NoReturn:
        raise OverrideError(f"--override-kv '{text}': {why}")

    key, sep, typed = text.partition("=")
    kind, colon, value = typed.partition(":")
    if not (key and sep and colon):
        fail("expected KEY=TYPE:VALUE, for example tokenizer.ggml.add_bos_token=bool:false")
    if len(key.encode("utf-8", "surrogateescape")) > _OVERRIDE_BYTES:
        fail(f"the key is longer than {_OVERRIDE_BYTES} bytes")
    if kind == "int":
        if re.fullmatch(r"[+-]?[0-9]+", value) is None or abs(int(value)) >= 2**32:
            fail("not a whole number of at most 32 bits")
        return key, MetaValue("UINT32", abs(int(value)))
    if kind == "float":
        try:
            return key, MetaValue("FLOAT32", float(value))
        except ValueError:
            fail("not a number")
    if kind == "bool":
        if value not in ("true", "false"):
            fail("a bool is true or false")
        return key, MetaValue("BOOL", value == "true")
    if kind != "str":
        fail(f"unknown type '{kind}'; types are int, float, bool and str")
    if len(value.encode("utf-8", "surrogateescape")) > _OVERRIDE_BYTES:
        fail(f"the text is longer than {_OVERRIDE_BYTES} bytes")
    return key, MetaValue("STRING", value)


@dataclass(frozen=True)
class Options:
    """The options of llama-quantize that bear on which format a tensor takes, under their names there.

    `overrides` are metadata to set (`--override-kv`), in order. Ours are `no_fallback`: a tensor that cannot
    take its format is an error instead of taking another one; and `redact_paths`: metadata name files without
    their folders; and `encoder`, how blocks are encoded: "default" keeps the codes of packed weights where the format
    can take them, and encodes everything else; "ordinary" encodes packed weights, too; "auto" also looks for blocks
    whose weights are values of the format already, and gives them the codes of these values; "lattice" fails where
    there are others, in the formats in which codes can be found (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0).
    """

    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    tensor_types: Sequence[TensorType | tuple[str, str]] = ()
    leave_output_tensor: bool = False
    pure: bool = False
    prune_layers: Sequence[int] = ()
    allow_requantize: bool = False
    keep_split: bool = False
    no_fallback: bool = False
    redact_paths: bool = False
    encoder: str = "default"
    overrides: Mapping[str, MetaValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, option in (
            ("output_tensor_type", "--output-tensor-type"),
            ("token_embedding_type", "--token-embedding-type"),
        ):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, parse_target(given, option))
        types = tuple(t if isinstance(t, TensorType) else TensorType(*t) for t in self.tensor_types)
        object.__setattr__(self, "tensor_types", types)
        if self.encoder not in ("default", "ordinary", "auto", "lattice"):
            raise OverrideError(f"--encoder {self.encoder}: there are default, ordinary, auto and lattice")
        if any(layer < 0 for layer in self.prune_layers):
            raise OverrideError("--prune-layers: layers count from 0")
        object.__setattr__(self, "prune_layers", tuple(sorted(set(self.prune_layers))))

    def named_type(self, name: str) -> TensorType | None:
        """The first `--tensor-type` that matches `name`."""
        return next((t for t in self.patterns if t.matches(name)), None)

    @property
    def patterns(self) -> tuple[TensorType, ...]:
        """`tensor_types`, parsed."""
        return tuple(t for t in self.tensor_types if isinstance(t, TensorType))

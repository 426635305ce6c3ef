"""Typed key-value metadata of GGUF files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggquant.errors import UsageError

#: GGUF's names of scalar types, by numpy's.
_NUMPY_TYPES = {
    "uint8": "UINT8",
    "int8": "INT8",
    "uint16": "UINT16",
    "int16": "INT16",
    "uint32": "UINT32",
    "int32": "INT32",
    "float32": "FLOAT32",
    "uint64": "UINT64",
    "int64": "INT64",
    "float64": "FLOAT64",
    "bool": "BOOL",
}
_INTEGER_RANGES = {
    "UINT8": (0, 2**8 - 1),
    "INT8": (-(2**7), 2**7 - 1),
    "UINT16": (0, 2**16 - 1),
    "INT16": (-(2**15), 2**15 - 1),
    "UINT32": (0, 2**32 - 1),
    "INT32": (-(2**31), 2**31 - 1),
    "UINT64": (0, 2**64 - 1),
    "INT64": (-(2**63), 2**63 - 1),
}
_SCALARS = (*_NUMPY_TYPES.values(), "STRING")

#: What the native module takes and gives: key, type, value, and the element type of an array.
NativeEntry = tuple[str, str, Any, str | None]


@dataclass(frozen=True, slots=True)
class MetaValue:
    """A value and the GGUF type it is stored as.

    Attributes:
        type: UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64 or FLOAT64.
        value: a bool, int, float, str or bytes (a string need not be UTF-8); for an ARRAY a list of them, or of
            `MetaValue` for arrays of arrays.
        item_type: element type of an ARRAY.
    """

    type: str
    value: Any
    item_type: str | None = None

    @classmethod
    def infer(cls, key: str, value: Any) -> MetaValue:
        """The type a plain Python value is stored as.

        Raises:
            UsageError: GGUF has no type for it.
        """
        if isinstance(value, MetaValue):
            return value
        if isinstance(value, np.generic) and value.dtype.name in _NUMPY_TYPES:
            return cls(_NUMPY_TYPES[value.dtype.name], value.item())
        if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.name in _NUMPY_TYPES:
            return cls("ARRAY", value.tolist(), _NUMPY_TYPES[value.dtype.name])
        scalar = _scalar_type(value)
        if scalar is not None:
            return cls(scalar, value)
        if isinstance(value, (list, tuple)):
            return cls("ARRAY", list(value), _item_type(key, value))
        raise UsageError(f"metadata '{key}': GGUF has no type for {type(value).__name__}")

    def plain(self) -> Any:
        """The value without its type."""
        if self.item_type == "ARRAY":
            return [item.plain() for item in self.value]
        return self.value

    def check(self, key: str) -> None:
        """Raises UsageError where value and type contradict each other."""
        if self.type == "ARRAY":
            if not isinstance(self.value, (list, tuple)):
                raise UsageError(f"metadata '{key}': an ARRAY takes a list, not {type(self.value).__name__}")
            if self.item_type == "ARRAY":
                for item in self.value:
                    if not isinstance(item, MetaValue) or item.type != "ARRAY":
                        raise UsageError(f"metadata '{key}': an array of arrays holds MetaValues of type ARRAY")
                    item.check(key)
                return
            if self.item_type not in _SCALARS:
                raise UsageError(f"metadata '{key}': {self.item_type} is not the type of array elements")
            for item in self.value:
                _check_scalar(key, self.item_type, item)
        elif self.type in _SCALARS:
            _check_scalar(key, self.type, self.value)
        else:
            raise UsageError(f"metadata '{key}': {self.type} is not a GGUF type")


def _scalar_type(value: Any) -> str | None:
    if isinstance(value, bool):
        return "BOOL"
    if isinstance(value, str):
        return "STRING"
    if isinstance(value, float):
        return "FLOAT32"
    if isinstance(value, int):
        for name in ("UINT32", "INT32", "UINT64", "INT64"):
            low, high = _INTEGER_RANGES[name]
            if low <= value <= high:
                return name
    return None


def _item_type(key: str, items: list[Any] | tuple[Any, ...]) -> str:
    kinds = {type(item) for item in items}
    if kinds <= {int} and items:
        for name in ("INT32", "UINT32", "INT64", "UINT64"):
            low, high = _INTEGER_RANGES[name]
            if all(low <= item <= high for item in items):
                return name
    if kinds <= {int, float} and items:
        return "FLOAT32"
    if len(kinds) == 1:
        scalar = _scalar_type(items[0])
        if scalar is not None:
            return scalar
    if not items:
        return "INT32"
    raise UsageError(f"metadata '{key}': the elements of an array must have one type; give a MetaValue to say it")


def _check_scalar(key: str, kind: str, value: Any) -> None:
    if kind in _INTEGER_RANGES:
        low, high = _INTEGER_RANGES[kind]
        fits = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    elif kind in ("FLOAT32", "FLOAT64"):
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and _in_float_range(kind, value)
    elif kind == "BOOL":
        fits = isinstance(value, bool)
    else:
        fits = isinstance(value, (str, bytes))
    if not fits:
        raise UsageError(f"metadata '{key}': {value!r} cannot be stored as {kind}")


def _in_float_range(kind: str, value: float) -> bool:
    """Whether `value` stays finite when it is stored as `kind`; infinities and NaN are stored as they are."""
    try:
        with np.errstate(over="ignore"):
            stored = np.float32(value) if kind == "FLOAT32" else np.float64(value)
    except OverflowError:  # a whole number beyond every float
        return False
    return bool(np.isfinite(stored)) or (isinstance(value, float) and not math.isfinite(value))


class Metadata(MutableMapping[str, Any]):
    """Metadata in file order. Reading gives plain values; `typed` gives the stored type as well.

    Assigning a plain value infers its type (see `MetaValue.infer`), assigning a `MetaValue` says it. A new key goes
    to the end, an existing one keeps its place.
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[str, Any] | None = None) -> None:
        self._entries: dict[str, MetaValue] = {}
        if isinstance(entries, Metadata):
            self._entries.update(entries._entries)
        elif entries is not None:
            for key, value in entries.items():
                self[key] = value

    @classmethod
    def from_native(cls, entries: list[NativeEntry]) -> Metadata:
        """From what the native reader gives."""
        made = cls()
        made._entries = {key: _from_native(kind, value, item) for key, kind, value, item in entries}
        return made

    def typed(self, key: str) -> MetaValue:
        """The value of `key` with its stored type."""
        return self._entries[key]

    def set_last(self, key: str, value: Any) -> None:
        """Sets `key` as the last entry, where llama.cpp puts a key that it sets or overrides."""
        self.pop(key, None)
        self[key] = value

    def __getitem__(self, key: str) -> Any:
        return self._entries[key].plain()

    def __setitem__(self, key: str, value: Any) -> None:
        typed = MetaValue.infer(key, value)
        typed.check(key)
        self._entries[key] = typed

    def __delitem__(self, key: str) -> None:
        del self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Metadata({dict(self)!r})"


def _from_native(kind: str, value: Any, item: str | None) -> MetaValue:
    if item == "ARRAY":
        return MetaValue(kind, [_from_native("ARRAY", inner, inner_item) for inner_item, inner in value], item)
    return MetaValue(kind, value, item)


def to_native(metadata: Metadata) -> list[NativeEntry]:
    """What the native writer takes."""
    return [(key, *_to_native(metadata.typed(key))) for key in metadata]


def _to_native(typed: MetaValue) -> tuple[str, Any, str | None]:
    if typed.item_type == "ARRAY":
        return typed.type, [(item.item_type, _to_native(item)[1]) for item in typed.value], "ARRAY"
    return typed.type, typed.value, typed.item_type

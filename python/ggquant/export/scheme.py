"""What a module is quantized to, and which of it a layout can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from ggquant.errors import UsageError

Layout = Literal["gptq", "gptq_v2", "awq", "compressed-tensors"]

#: Layouts, and the widths each has.
WIDTHS: dict[Layout, tuple[int, ...]] = {
    "gptq": (2, 3, 4, 8),
    "gptq_v2": (2, 3, 4, 8),
    "awq": (4,),
    "compressed-tensors": (2, 3, 4, 5, 6, 7, 8),
}

#: Layouts with a place for groups that are not made of neighbours. compressed-tensors has had one (`weight_g_idx`),
#: which is read; the package has since removed it.
ACT_ORDER = ("gptq", "gptq_v2")

Method = Literal["rtn", "keep", "gptq", "awq", "awq+gptq"]

#: Methods that need calibration text.
CALIBRATED = ("gptq", "awq", "awq+gptq")


def find_layout(name: str) -> Layout:
    """The layout of this name.

    Raises:
        UsageError: there is none.
    """
    for layout in WIDTHS:
        if layout == name.lower().replace("-v2", "_v2"):
            return layout
    raise UsageError(f"'{name}' is no layout; there are {', '.join(WIDTHS)}")


def find_method(name: str | None) -> Method | None:
    """The method of this name, if one is named.

    Raises:
        UsageError: there is none of this name.
    """
    for method in get_args(Method):
        if name == method:
            return cast("Method", method)
    if name is None:
        return None
    raise UsageError(f"'{name}' is no method; there are {', '.join(get_args(Method))}")


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a module's weights are quantized.

    Attributes:
        bits: bits of a code.
        group_size: neighbouring inputs that share a scale, or -1 for whole rows.
        symmetric: the zero point is the middle code.
    """

    bits: int = 4
    group_size: int = 128
    symmetric: bool = True

    @property
    def label(self) -> str:
        """In words."""
        groups = "rows" if self.group_size == -1 else f"groups of {self.group_size}"
        return f"{self.bits} bits, {'symmetric' if self.symmetric else 'asymmetric'} {groups}"

    def groups(self, columns: int) -> int:
        """Groups of a row."""
        return 1 if self.group_size == -1 else -(-columns // self.group_size)

    def group_len(self, columns: int) -> int:
        """Inputs of a group."""
        return columns if self.group_size == -1 else self.group_size

    def alike(self, other: Scheme, columns: int) -> bool:
        """Whether rows of so many columns have the same groups of the same codes in both."""
        same = self.groups(columns) == other.groups(columns) == 1 or self.group_size == other.group_size
        return same and (self.bits, self.symmetric) == (other.bits, other.symmetric)


def check(layout: Layout, scheme: Scheme) -> None:
    """Raises UsageError where no module can be stored this way."""
    if scheme.bits not in WIDTHS[layout]:
        widths = ", ".join(map(str, WIDTHS[layout]))
        raise UsageError(f"{layout} checkpoints have codes of {widths} bits, not {scheme.bits}")
    if scheme.group_size != -1 and (scheme.group_size < 16 or scheme.group_size % 16):
        raise UsageError(f"groups of {scheme.group_size}: give a multiple of 16 such as 128, or -1 for whole rows")


def obstacle(layout: Layout, scheme: Scheme, rows: int, columns: int) -> str:
    """Why a module of this shape cannot be stored so, or ""."""
    if layout in ("awq", "compressed-tensors") and scheme.group_size != -1 and columns % scheme.group_size:
        return f"{columns} inputs do not divide into groups of {scheme.group_size}, as {layout} needs"
    if layout == "awq" and rows % 8:
        return f"{rows} outputs do not divide into words of 8, as awq needs"
    return ""


#: Groups that the kernels of vLLM (Marlin) have.
_SERVED_GROUPS = (32, 64, 128, -1)

#: Widths that they have, symmetric and asymmetric.
_SERVED_WIDTHS: dict[Layout, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "gptq": ((4, 8), ()),
    "gptq_v2": ((4, 8), ()),
    "awq": ((4,), (4,)),
    "compressed-tensors": ((4, 8), (4, 8)),
}


def unserved(layout: Layout, schemes: Mapping[str, Scheme]) -> list[str]:
    """Warnings about modules that vLLM's loaders do not take; the packages that own the layouts read them all."""
    by_reason: dict[str, int] = {}
    for scheme in schemes.values():
        symmetric, asymmetric = _SERVED_WIDTHS[layout]
        widths, kind = (symmetric, "symmetric") if scheme.symmetric else (asymmetric, "asymmetric")
        reason = ""
        if scheme.bits not in widths:
            known = f"those of {' and '.join(map(str, widths))} bits alone" if widths else "none"
            reason = f"of {kind} codes it takes {known} (these have {scheme.bits})"
        elif scheme.group_size not in _SERVED_GROUPS:
            reason = f"it takes groups of 32, 64 and 128 and whole rows (these are of {scheme.group_size})"
        if reason:
            by_reason[reason] = by_reason.get(reason, 0) + 1
    hint = "; asymmetric codes of 4 bits go with --to awq or compressed-tensors" if layout.startswith("gptq") else ""
    return [
        f"vLLM may not load {count} modules: in {layout} checkpoints {reason}{hint if 'asymmetric' in reason else ''}"
        for reason, count in by_reason.items()
    ]

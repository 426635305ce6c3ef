"""Every variant as data: its number, its format, and the tensors for which it makes an exception.

A variant (`Q4_K_M`) names a recipe for a whole file; a format (`Q4_K`) is how one tensor is stored. Each
variant has one format for everything and a short list of exceptions by tensor category. Within a category
the first rule whose condition holds wins; where none holds the variant's own format is used. Decisions are
those of llama.cpp's `llama-quantize`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from ..errors import UsageError
from .rules import (
    EXPERT_STACK,
    EXPERTS_8,
    FALCON,
    FIRST_EIGHTH,
    FIRST_FOUR,
    FIRST_SIXTEENTH,
    FIRST_TWO,
    IMATRIX,
    MANY_EXPERTS,
    MIDDLE,
    MORE_BITS,
    NO_IMATRIX,
    NOT_EXPERTS_8,
    NOT_FALCON,
    WIDE_GQA,
    Rule,
    use,
)
from .tensors import Category

__all__ = [
    "ALIASES",
    "ARCH_FLOOR",
    "LIFT_70B",
    "SHARED_RULES",
    "VARIANTS",
    "UnknownVariantError",
    "Variant",
    "find_variant",
    "variant_label",
]


@dataclass(frozen=True, slots=True)
class Variant:
    """A recipe for a whole file.

    - `file_type`: what `general.file_type` says; `format`: for every tensor without a rule.
    - `rules`: exceptions by category; attn_qkv and attn_kv_b follow attn_v. `otherwise`: for all other
      categories.
    - `output`: the output matrix, and the token embeddings where the model has no output matrix (tied).
      Q8_0 takes its place in falcon, and where the blocks of `format` do not divide a row.
    - `embedding`: token embeddings that are not tied, where not `format`.
    - `shared_rules`: whether `SHARED_RULES` and `LIFT_70B` apply. Variants with them find a feed-forward
      tensor's layer in its name where the model has experts; variants without count tensors instead.
    - `fixed_output`, `fixed_embedding`: set as if by `--output-tensor-type` and `--token-embedding-type`.
    - `base`: the variant this one is spelled after. llama.cpp knows only that one.
    """

    name: str
    file_type: int
    format: str
    rules: Mapping[Category, tuple[Rule, ...]] = field(default_factory=dict)
    otherwise: tuple[Rule, ...] = ()
    output: str = "Q6_K"
    embedding: str | None = None
    shared_rules: bool = True
    copies: bool = False
    fixed_output: str | None = None
    fixed_embedding: str | None = None
    base: str | None = None


SHARED_RULES: Mapping[Category, tuple[Rule, ...]] = {
    Category.ATTN_V: (use("Q8_0", EXPERTS_8),),
    Category.ATTN_K: (use("Q8_0", EXPERTS_8),),
}
"""Rules that come before a variant's own: in a model of 8 experts attention is so small a part that Q8_0
costs little."""

LIFT_70B: Mapping[str, str] = {"Q3_K": "Q5_K", "Q4_K": "Q5_K"}
"""What attn_v gets instead in a model of the 70B size, where 8 query heads share one attn_v."""

ARCH_FLOOR: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "glm5-next": ("Q8_0", ("attn_q_a", "attn_q_b", "nextn.eh_proj")),
}
"""Architectures in which tensors whose names contain one of these parts take this format whatever the
variant."""

# The output projection of attention, in the many variants that only care for models of 8 experts.
_O8 = use("Q5_K", NOT_FALCON & EXPERTS_8)


def _low_bit(name: str, file_type: int, format: str, *, sensitive: str, attn_output: str | None) -> Variant:
    """A variant of one to three bits: what it protects, it stores as `sensitive`."""
    return Variant(
        name,
        file_type,
        format,
        {
            Category.ATTN_V: (use("Q4_K", WIDE_GQA | MANY_EXPERTS), use(sensitive)),
            Category.ATTN_K: (use("Q4_K", EXPERTS_8),),
            Category.ATTN_OUTPUT: (use("Q5_K", EXPERTS_8), *((use(attn_output),) if attn_output else ())),
            Category.FFN_DOWN: (use(sensitive, FIRST_EIGHTH),),
        },
        output="Q5_K",
        embedding=sensitive,
        shared_rules=False,
    )


_IQ4: Mapping[Category, tuple[Rule, ...]] = {
    Category.ATTN_V: (use("Q5_K", WIDE_GQA),),
    Category.ATTN_OUTPUT: (_O8,),
    Category.FFN_DOWN: (use("Q5_K", NO_IMATRIX & FIRST_EIGHTH),),
}

_UPSTREAM: tuple[Variant, ...] = (
    Variant("F32", 0, "F32"),
    Variant("F16", 1, "F16"),
    Variant("BF16", 32, "BF16"),
    Variant("Q8_0", 7, "Q8_0", output="Q8_0"),
    Variant("Q6_K", 18, "Q6_K"),
    Variant(
        "Q5_K_M",
        17,
        "Q5_K",
        {
            Category.ATTN_V: (use("Q6_K", MORE_BITS),),
            Category.FFN_DOWN: (use("Q6_K", MORE_BITS),),
        },
    ),
    Variant("Q5_K_S", 16, "Q5_K"),
    Variant(
        "Q4_K_M",
        15,
        "Q4_K",
        {
            Category.ATTN_V: (use("Q6_K", MORE_BITS),),
            Category.ATTN_OUTPUT: (_O8,),
            Category.FFN_DOWN: (
                use("Q6_K", FALCON & FIRST_SIXTEENTH),
                use("Q5_K", FALCON & MORE_BITS),
                use("Q6_K", NOT_FALCON & MORE_BITS),
            ),
        },
    ),
    Variant(
        "Q4_K_S",
        14,
        "Q4_K",
        {
            Category.ATTN_V: (use("Q5_K", FIRST_FOUR),),
            Category.ATTN_OUTPUT: (_O8,),
            Category.FFN_DOWN: (use("Q5_K", NOT_FALCON & FIRST_EIGHTH),),
        },
    ),
    Variant(
        "Q3_K_L",
        13,
        "Q3_K",
        {
            Category.ATTN_V: (use("Q5_K"),),
            Category.ATTN_OUTPUT: (use("Q4_K", FALCON), use("Q5_K", NOT_EXPERTS_8)),
            Category.FFN_DOWN: (use("Q4_K", FALCON), use("Q5_K")),
        },
    ),
    Variant(
        "Q3_K_M",
        12,
        "Q3_K",
        {
            Category.ATTN_V: (use("Q5_K", FIRST_TWO), use("Q4_K")),
            Category.ATTN_OUTPUT: (_O8, use("Q4_K", NOT_FALCON)),
            Category.FFN_DOWN: (use("Q5_K", FIRST_SIXTEENTH), use("Q4_K", NOT_FALCON | MORE_BITS)),
        },
    ),
    Variant("Q3_K_S", 11, "Q3_K", {Category.ATTN_OUTPUT: (_O8,)}),
    Variant(
        "Q2_K",
        10,
        "Q2_K",
        {
            Category.ATTN_V: (use("Q4_K", WIDE_GQA), use("Q3_K")),
            Category.ATTN_OUTPUT: (_O8, use("Q3_K", NOT_FALCON)),
            Category.FFN_DOWN: (use("Q3_K"),),
        },
    ),
    Variant(
        "Q2_K_S",
        21,
        "Q2_K",
        {
            Category.ATTN_V: (use("Q4_K", WIDE_GQA),),
            Category.FFN_DOWN: (use("Q4_K", FIRST_EIGHTH),),
        },
    ),
    Variant("IQ4_NL", 25, "IQ4_NL", _IQ4),
    Variant("IQ4_XS", 30, "IQ4_XS", _IQ4),
    Variant(
        "IQ3_M",
        27,
        "IQ3_S",
        {
            Category.ATTN_V: (use("Q4_K"),),
            Category.ATTN_OUTPUT: (_O8, use("Q4_K", NOT_FALCON)),
            Category.FFN_DOWN: (use("Q4_K", FIRST_EIGHTH | (EXPERTS_8 & MORE_BITS)),),
        },
    ),
    Variant("IQ3_S", 26, "IQ3_S", {Category.ATTN_V: (use("Q4_K", WIDE_GQA),), Category.ATTN_OUTPUT: (_O8,)}),
    Variant(
        "IQ3_XS",
        22,
        "IQ3_S",
        {
            Category.ATTN_V: (use("Q4_K", WIDE_GQA),),
            Category.ATTN_K: (use("IQ3_XXS"),),
            Category.ATTN_Q: (use("IQ3_XXS"),),
            Category.ATTN_OUTPUT: (_O8,),
            Category.FFN_GATE: (use("IQ3_XXS", MIDDLE),),
            Category.FFN_UP: (use("IQ3_XXS", MIDDLE),),
        },
    ),
    Variant(
        "IQ3_XXS",
        23,
        "IQ3_XXS",
        {
            Category.ATTN_V: (use("Q4_K", WIDE_GQA), use("IQ3_S", NO_IMATRIX)),
            Category.ATTN_K: (use("IQ2_S"),),
            Category.ATTN_Q: (use("IQ2_S"),),
            Category.ATTN_OUTPUT: (_O8, use("IQ3_S", NOT_FALCON)),
            Category.FFN_DOWN: (use("Q4_K", NO_IMATRIX & FIRST_EIGHTH), use("Q3_K", NO_IMATRIX)),
        },
        output="Q5_K",
        embedding="IQ3_S",
    ),
    _low_bit("IQ2_M", 29, "IQ2_S", sensitive="IQ3_S", attn_output="IQ3_S"),
    _low_bit("IQ2_S", 28, "IQ2_XS", sensitive="IQ3_S", attn_output="IQ3_S"),
    _low_bit("IQ2_XS", 20, "IQ2_XS", sensitive="Q2_K", attn_output=None),
    _low_bit("IQ2_XXS", 19, "IQ2_XXS", sensitive="Q2_K", attn_output=None),
    _low_bit("IQ1_M", 31, "IQ1_M", sensitive="Q2_K", attn_output="IQ2_XXS"),
    _low_bit("IQ1_S", 24, "IQ1_S", sensitive="Q2_K", attn_output="IQ2_XXS"),
    Variant("Q5_1", 9, "Q5_1"),
    Variant("Q5_0", 8, "Q5_0", {Category.FFN_DOWN: (use("Q5_1", IMATRIX & FIRST_EIGHTH),)}),
    Variant("Q4_1", 3, "Q4_1"),
    Variant("Q4_0", 2, "Q4_0", {Category.FFN_DOWN: (use("Q4_1", IMATRIX & FIRST_EIGHTH),)}),
    Variant(
        "MXFP4_MOE",
        38,
        "MXFP4",
        otherwise=(use("MXFP4", EXPERT_STACK), use("Q8_0")),
        output="Q8_0",
        shared_rules=False,
    ),
    Variant("TQ2_0", 37, "TQ2_0", embedding="Q4_K"),
    Variant("TQ1_0", 36, "TQ1_0", embedding="Q4_K"),
    Variant("Q2_0", 41, "Q2_0", embedding="Q4_K"),
    Variant("Q1_0", 40, "Q1_0"),
    Variant("COPY", 0, "F32", copies=True),
)

_BY_UPSTREAM_NAME = {v.name: v for v in _UPSTREAM}


def _large(name: str, base: str) -> Variant:
    """A variant of ours to spell: `base` with Q8_0 for the token embeddings and the output."""
    b = _BY_UPSTREAM_NAME[base]
    return Variant(
        name,
        b.file_type,
        b.format,
        b.rules,
        output=b.output,
        embedding=b.embedding,
        fixed_output="Q8_0",
        fixed_embedding="Q8_0",
        base=base,
    )


VARIANTS: Mapping[str, Variant] = _BY_UPSTREAM_NAME | {
    v.name: v
    for v in (
        _large("Q6_K_L", "Q6_K"),
        _large("Q5_K_L", "Q5_K_M"),
        _large("Q4_K_L", "Q4_K_M"),
        _large("Q2_K_L", "Q2_K"),
    )
}
"""Every variant by name."""

ALIASES: Mapping[str, str] = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""Short names. A file named after its variant keeps the name as it was typed."""

# A number stands for the first name in llama-quantize's list that has it: the alias, where there is one.
_BY_NUMBER = {v.file_type: v.name for v in reversed(_UPSTREAM) if not v.copies} | {
    _BY_UPSTREAM_NAME[full].file_type: alias for alias, full in ALIASES.items()
}


class UnknownVariantError(UsageError):
    """A name that no variant has."""


def variant_label(name: str) -> str:
    """The spelling that llama-quantize puts into a default file name (`ggml-model-<label>.gguf`).

    `name` is a variant, an alias or a file type number, in any case.
    """
    text = name.strip().upper()
    if text in VARIANTS or text in ALIASES:
        return text
    if text.isascii() and text.isdigit() and int(text) in _BY_NUMBER:
        return _BY_NUMBER[int(text)]
    close = get_close_matches(text, [*VARIANTS, *ALIASES], n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise UnknownVariantError(f"unknown variant '{name}'{hint} (all: {', '.join([*VARIANTS, *ALIASES])})")


def find_variant(name: str) -> Variant:
    """The variant called `name`: any case, aliases and file type numbers included."""
    label = variant_label(name)
    return VARIANTS[ALIASES.get(label, label)]

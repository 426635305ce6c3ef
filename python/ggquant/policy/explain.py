"""What a variant's name means and what it does, as data and as text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..tensor_types import FORMATS, Kind
from .advice import ADVICE, BITS_LLAMA_31_8B, PERPLEXITY, Advice, Perplexity
from .policy import requires_imatrix
from .rules import ALWAYS
from .table import ALIASES, LIFT_70B, SHARED_RULES, Variant, find_variant
from .tensors import Category

__all__ = ["EVERYTHING_ELSE", "Exemption", "Explanation", "explain", "needs_imatrix", "render", "summary"]


@dataclass(frozen=True, slots=True)
class Exemption:
    """Tensors that take another format than the variant's own: which, in what case, and what they take."""

    tensors: str
    format: str
    when: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything there is to say about a variant.

    `parts` takes the name apart; `bits` are those of its format, `bits_8b` those of a whole file of
    Llama-3.1-8B.
    """

    name: str
    aliases: tuple[str, ...]
    file_type: int
    format: str
    bits: float
    summary: str
    parts: tuple[tuple[str, str], ...]
    needs_imatrix: bool
    exemptions: tuple[Exemption, ...]
    advice: Advice
    bits_8b: float | None
    perplexity: Perplexity | None
    base: str | None


EVERYTHING_ELSE = "everything else"
"""How `Exemption.tensors` reads where a variant has rules for all remaining tensors."""

_LETTERS = {
    "Q": "quantized: each weight is a small integer times a scale",
    "IQ": "i-quant: weights are looked up in a codebook or a non-linear table, which suits low bits",
    "TQ": "ternary: each weight is -1, 0 or 1 times a scale",
    "K": "k-quant: super-blocks of 256 weights, whose sub-blocks have quantized scales of their own",
    "0": "a scale per block and nothing else",
    "1": "a scale and a minimum per block",
    "NL": "non-linear: the 16 codes stand for unevenly spaced values; blocks of 32",
    "S": "small: few or no exceptions",
    "M": "medium: the tensors that matter most get more bits",
    "L": "large: more of them, or more bits for them",
    "XS": "extra small",
    "XXS": "smallest of its kind",
    "MOE": "for mixture-of-experts models",
}
_FLOATS = {
    "F32": "32-bit floats",
    "F16": "16-bit floats (IEEE half)",
    "BF16": "16-bit floats (bfloat16)",
    "MXFP4": "4-bit floats (E2M1) with a power-of-two scale per 32 (OCP microscaling)",
    "COPY": "every tensor keeps the format it has",
}


def _parts(variant: Variant) -> tuple[tuple[str, str], ...]:
    """The pieces of a name with their meanings."""
    head, *rest = variant.name.split("_")
    if head in _FLOATS:
        return ((head, _FLOATS[head]), *((r, _LETTERS[r]) for r in rest))
    found = re.fullmatch(r"(IQ|TQ|Q)([0-9])", head)
    if found is None:
        raise AssertionError(f"variant {variant.name} has a name that cannot be taken apart")
    kind, bits = found.groups()
    meant = "the nominal bits per weight" if kind == "TQ" else f"{bits}-bit codes"
    if kind == "IQ":
        meant = f"about {bits} bits per weight"
    parts = [(kind, _LETTERS[kind]), (bits, meant)]
    for piece in rest:
        meaning = _LETTERS[piece]
        if variant.base is not None and piece == "L":
            meaning = f"large: {variant.base} with {variant.fixed_output} for the token embeddings and the output"
        parts.append((piece, meaning))
    return tuple(parts)


def needs_imatrix(variant: Variant) -> bool:
    """Whether ordinary models cannot be made this variant without an imatrix."""
    formats = {variant.format} | {r.format for rules in variant.rules.values() for r in rules}
    return any(requires_imatrix("blk.0.ffn_up.weight", f, variant) for f in formats)


def summary(variant: Variant) -> str:
    """One line for tables."""
    if variant.copies:
        return _FLOATS["COPY"]
    if variant.base is not None:
        return f"{variant.base}, {variant.fixed_output} embeddings and output"
    text = FORMATS[variant.format].summary
    if variant.name == "MXFP4_MOE":
        return f"experts: {text}; the rest Q8_0"
    return f"{variant.format}: {text}" if variant.name != variant.format else text


def _exemptions(variant: Variant) -> tuple[Exemption, ...]:
    """What differs from the variant's own format, in the order in which it is looked up."""
    if FORMATS[variant.format].kind is Kind.FLOAT:
        return ()
    found: list[Exemption] = []

    def add(tensors: str, format: str, when: str) -> None:
        found.append(Exemption(tensors, format, when))

    if variant.fixed_output is not None:
        add("output", variant.fixed_output, "always")
        add("token_embd", variant.fixed_embedding or variant.format, "always")
    else:
        tied = "output (or token_embd, if it serves as one)"
        if variant.output != "Q8_0":
            unfit = f", or where blocks of {FORMATS[variant.format].block_len} do not divide a row"
            unfit = unfit if FORMATS[variant.format].block_len > 1 else ""
            add(tied, "Q8_0", f"falcon{unfit}")
        if variant.output != variant.format:
            add(tied, variant.output, "otherwise" if variant.output != "Q8_0" else "always")
        if variant.embedding not in (None, variant.format):
            add("token_embd", str(variant.embedding), "if it is not the output as well")
    labels = {Category.ATTN_V: "attn_v, attn_qkv, attn_kv_b"}
    for category in Category:
        shared = SHARED_RULES.get(category, ()) if variant.shared_rules else ()
        for rule in (*shared, *variant.rules.get(category, ())):
            when = rule.when.text if rule.when is not ALWAYS else "always"
            if found and found[-1].tensors == labels.get(category, category.value) and when == "always":
                when = "otherwise"
            add(labels.get(category, category.value), rule.format, when)
        if category is Category.ATTN_V and variant.shared_rules:
            reach = {variant.format} | {r.format for r in variant.rules.get(category, ())}
            for low, high in LIFT_70B.items():
                if low in reach:
                    add(labels[category], high, f"replaces {low} in models of the 70B size")
    for rule in variant.otherwise:
        add(EVERYTHING_ELSE, rule.format, rule.when.text if rule.when is not ALWAYS else "otherwise")
    return tuple(found)


def explain(name: str | Variant) -> Explanation:
    """Explains a variant, by name (any case, aliases, numbers) or as found."""
    variant = find_variant(name) if isinstance(name, str) else name
    return Explanation(
        variant.name,
        tuple(alias for alias, full in ALIASES.items() if full == variant.name),
        variant.file_type,
        variant.format,
        FORMATS[variant.format].bits_per_weight,
        summary(variant),
        _parts(variant),
        needs_imatrix(variant),
        _exemptions(variant),
        ADVICE[variant.name],
        BITS_LLAMA_31_8B.get(variant.name),
        PERPLEXITY.get(variant.name),
        variant.base,
    )


def render(explanation: Explanation) -> str:
    """The explanation as plain text, ready to print."""
    e = explanation
    title = e.name + (f" (also {', '.join(e.aliases)})" if e.aliases else "")
    lines = [f"{title}: {e.summary}", ""]
    width = max(len(piece) for piece, _ in e.parts)
    lines += [f"  {piece:<{width}}  {meaning}" for piece, meaning in e.parts]
    lines.append("")
    if e.base is not None:
        lines.append(f"The name is a habit of people who publish models; llama.cpp sees a {e.base} file.")
    if e.name == "COPY":
        lines.append("File type: that of the input.")
    else:
        lines.append(f"File type {e.file_type}; {e.bits:g} bits per weight in {e.format}, all told.")
    if e.bits_8b is not None:
        lines.append(f"A whole file of Llama-3.1-8B: {e.bits_8b} bits per weight (llama.cpp, tools/quantize).")
    if e.perplexity is not None:
        p = e.perplexity
        lines.append(f"{p.model}: {p.gib:.2f} GiB, perplexity {p.increase:+.4f} (llama-quantize --help).")
    lines.append("Needs an imatrix." if e.needs_imatrix else "Works without an imatrix.")
    if e.exemptions:
        others = any(x.tensors == EVERYTHING_ELSE for x in e.exemptions)
        lines += ["", "Formats by tensor:" if others else f"Every weight matrix is {e.format}, except:"]
        tensors = max(len(x.tensors) for x in e.exemptions)
        formats = max(len(x.format) for x in e.exemptions)
        lines += [f"  {x.tensors:<{tensors}}  {x.format:<{formats}}  {x.when}" for x in e.exemptions]
        lines.append("The first line that applies counts; one that replaces applies to what the others give.")
    if e.name != "COPY":
        lines.append("Norms, biases, routers and other small tensors stay as they are.")
    lines += ["", f"When: {e.advice.when}"]
    lines += [f"Instead: {name}, {why}" for name, why in e.advice.instead]
    return "\n".join(lines) + "\n"

"""From a variant and a model's headers to the format of every tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import UsageError
from ..overrides import Options
from ..tensor_types import FALLBACK, FORMATS, Kind
from .facts import ModelFacts
from .prune import prune
from .rules import Rule, Situation, first_match
from .table import ARCH_FLOOR, LIFT_70B, SHARED_RULES, Variant, find_variant
from .tensors import V_LIKE, Category, categorize, kept_because, layer_of, order_key

__all__ = ["Decision", "MisfitError", "PolicyError", "TensorHeader", "choose", "requires_imatrix"]


class PolicyError(UsageError):
    """No format can be chosen for a tensor; the message names it and says what to do."""


class MisfitError(PolicyError):
    """A format asked for by name does not fit a tensor's rows."""


class TensorHeader(NamedTuple):
    """What a header says of a tensor: its name, its shape in numpy order (the row last), its type."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The format of one tensor and how it came about.

    - `name`: in the output; `source`: in the input (they differ after `--prune-layers`), which is also the
      name under which an imatrix of the input's model has its data.
    - `dtype`: the type it has; `wanted`: the format its rules give; `format`: the one it takes.
    - `fallback`: why `format` is not `wanted`, or None. `quantizable`: whether rules apply to it at all.
    - `requires_imatrix`: whether converting it without importances is refused.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    dtype: str
    category: Category
    wanted: str
    format: str
    why: str
    fallback: str | None = None
    requires_imatrix: bool = False
    quantizable: bool = True


_FEED_FORWARD = frozenset({Category.FFN_UP, Category.FFN_GATE, Category.FFN_DOWN})
_NEEDS_IMATRIX = frozenset({"IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_M", "IQ1_S"})


def requires_imatrix(name: str, format: str, variant: Variant) -> bool:
    """Whether llama-quantize refuses to make tensor `name` of the variant without an imatrix.

    Below about three bits the result would be of no use. Q2_K counts only within Q2_K_S; token embeddings
    and the output are exempt, since an imatrix has no data for them.
    """
    if categorize(name) in (Category.OUTPUT, Category.TOKEN_EMBD):
        return False
    return format in _NEEDS_IMATRIX or (format == "Q2_K" and variant.name == "Q2_K_S")


def choose(
    facts: ModelFacts,
    tensors: Sequence[TensorHeader | tuple[str, tuple[int, ...], str]],
    variant: str | Variant,
    *,
    imatrix: bool | Collection[str] = False,
    options: Options | None = None,
) -> list[Decision]:
    """Decides the format of every tensor, as llama-quantize would.

    Decisions come in the order of the output file: outside the layers first, then by layer, then by name;
    with `keep_split` in the order given, which then must be that of the shards. `imatrix` says whether
    there is one (an empty collection of names is none). Whether the decisions can be carried out is for
    `refusals` to say; PolicyError is raised where there is nothing to decide: a format without a stand-in
    for a row it does not divide, an option that asks for such a format, an expert tensor outside the
    layers, a pruned tensor's clash.
    """
    chosen = find_variant(variant) if isinstance(variant, str) else variant
    opts = options or Options()
    headers = {t[0]: TensorHeader(*t) for t in tensors}
    if len(headers) != len(tensors):
        twice = [name for name, n in Counter(t[0] for t in tensors).items() if n > 1]
        raise PolicyError(f"tensor '{twice[0]}' appears twice")
    pruned = prune(headers, opts.prune_layers).names
    if len(set(pruned.values())) != len(pruned):
        raise PolicyError("--prune-layers gives two tensors the same name")
    order = [name for name in headers if name in pruned] if opts.keep_split else sorted(pruned, key=order_key)
    chooser = _Chooser(facts, chosen, opts, bool(imatrix), [pruned[name] for name in order])
    return [chooser.decide(headers[name], pruned[name]) for name in order]


@dataclass(slots=True)
class _Wanted:
    format: str
    why: str
    must_fit: bool = False  # given for this very tensor: not fitting is an error


class _Chooser:
    """The state of one pass over a model's tensors: how many of each kind there are and have been."""

    def __init__(
        self, facts: ModelFacts, variant: Variant, options: Options, imatrix: bool, names: Sequence[str]
    ) -> None:
        self.facts = facts
        self.variant = variant
        self.options = options
        self.imatrix = imatrix
        categories = [categorize(name) for name in names]
        self.tied = Category.OUTPUT not in categories
        self.v_like_total = sum(c in V_LIKE for c in categories)
        self.seen: Counter[Category] = Counter()

    def decide(self, header: TensorHeader, name: str) -> Decision:
        category = categorize(name)
        kept = self.kept_because(header, name)
        if kept is not None:
            return Decision(
                name, header.name, header.shape, header.dtype, category, header.dtype, header.dtype, kept,
                quantizable=False,
            )  # fmt: skip
        wanted = self.wanted(header, name, category)
        format, fallback = self.fit(wanted, header, name)
        return Decision(
            name, header.name, header.shape, header.dtype, category, wanted.format, format, wanted.why,
            fallback, requires_imatrix(name, format, self.variant),
        )  # fmt: skip

    def kept_because(self, header: TensorHeader, name: str) -> str | None:
        if self.variant.copies:
            return "COPY keeps every tensor"
        if self.options.leave_output_tensor and name == "output.weight":
            return "kept by --leave-output-tensor"
        reason = kept_because(name, header.shape, self.facts.arch)
        return None if reason is None else f"kept: {reason}"

    def wanted(self, header: TensorHeader, name: str, category: Category) -> _Wanted:
        options, variant = self.options, self.variant
        named = options.named_type(name)
        embedding = options.token_embedding_type or variant.fixed_embedding
        # The per-layer table follows the embeddings unless it is named on its own.
        on_its_own = named is not None and name == "per_layer_token_embd.weight"
        if category is Category.TOKEN_EMBD and embedding is not None and not on_its_own:
            asked = options.token_embedding_type is not None
            why = "--token-embedding-type" if asked else f"{variant.name}: token embeddings"
            return _Wanted(embedding, why, must_fit=asked)
        output = options.output_tensor_type or variant.fixed_output
        if category is Category.OUTPUT and output is not None:
            asked = options.output_tensor_type is not None
            return _Wanted(output, "--output-tensor-type" if asked else f"{variant.name}: output", must_fit=asked)
        if FORMATS[variant.format].kind is Kind.FLOAT:
            return _Wanted(variant.format, f"{variant.name}: every weight matrix")
        if named is not None:
            return _Wanted(named.format, f"--tensor-type {named}")
        if options.pure:
            return _Wanted(variant.format, "--pure")
        return self.by_rules(header, name, category)

    def by_rules(self, header: TensorHeader, name: str, category: Category) -> _Wanted:
        variant = self.variant
        floor, parts = ARCH_FLOOR.get(self.facts.arch, ("", ()))
        if any(part in name for part in parts):
            return _Wanted(floor, f"sensitive in {self.facts.arch}")
        if category is Category.OUTPUT or (category is Category.TOKEN_EMBD and self.tied):
            return self.output(header, category)
        if category is Category.TOKEN_EMBD and variant.embedding is not None:
            return _Wanted(variant.embedding, "token_embd: always")
        group = Category.ATTN_V if category in V_LIKE else category
        situation = self.situation(header, name, category, group)
        shared = SHARED_RULES.get(group, ()) if variant.shared_rules else ()
        rule = first_match((*shared, *variant.rules.get(group, variant.otherwise)), situation)
        wanted = self.explained(rule, situation)
        if group is Category.ATTN_V and variant.shared_rules and self.facts.is_70b:
            lifted = LIFT_70B.get(wanted.format)
            if lifted is not None:
                wanted = _Wanted(lifted, f"{category.value}: 70B model, instead of {wanted.format}")
        self.seen[group] += 1
        return wanted

    def situation(self, header: TensorHeader, name: str, category: Category, group: Category) -> Situation:
        position, positions = self.seen[group], self.facts.n_layer
        if group is Category.ATTN_V:
            positions = self.v_like_total
        elif group in _FEED_FORWARD and self.variant.shared_rules and self.facts.n_expert > 1:
            position = layer_of(name)
            if not 0 <= position < positions:
                raise PolicyError(
                    f"tensor '{name}' belongs to none of the model's {positions} layers; give it a format "
                    f"with --tensor-type, or check {self.facts.arch}.block_count"
                )
        return Situation(
            category,
            self.facts.arch,
            self.facts.gqa,
            self.facts.n_expert,
            self.imatrix,
            position,
            positions,
            len(header.shape) > 2 and header.shape[-3] > 1,
        )

    def explained(self, rule: Rule | None, situation: Situation) -> _Wanted:
        label = situation.category.value
        if rule is None:
            return _Wanted(self.variant.format, f"{self.variant.name}: everything without a rule")
        why = f"{label}: {rule.when.text}"
        if rule.when.places:
            why += f" (number {situation.position + 1} of {situation.positions})"
        return _Wanted(rule.format, why)

    def output(self, header: TensorHeader, category: Category) -> _Wanted:
        label = "output" if category is Category.OUTPUT else "token_embd, also the output"
        asked = self.options.output_tensor_type or self.variant.fixed_output
        if asked is not None:
            return _Wanted(asked, f"{label}: --output-tensor-type")
        if self.facts.arch == "falcon":
            return _Wanted("Q8_0", f"{label}: falcon")
        if header.shape[-1] % FORMATS[self.variant.format].block_len:
            return _Wanted("Q8_0", f"{label}: rows of {header.shape[-1]} do not fit {self.variant.format}")
        return _Wanted(self.variant.output, f"{label}: always")

    def fit(self, wanted: _Wanted, header: TensorHeader, name: str) -> tuple[str, str | None]:
        """The format that the rows allow, and why it is another one than wanted."""
        row = header.shape[-1]
        facts = FORMATS[wanted.format]
        if row % facts.block_len == 0:
            return wanted.format, None
        misfit = f"rows of {row} weights are not whole blocks of {facts.block_len} ({wanted.format})"
        if wanted.must_fit:
            raise MisfitError(f"tensor '{name}': {misfit}; give {wanted.why} another format")
        if facts.block_len <= 32:
            return "F16", misfit
        stand_in = FALLBACK.get(wanted.format)
        if stand_in is None:
            raise PolicyError(
                f"tensor '{name}': {misfit}, and {wanted.format} has no stand-in; name a format for this "
                "tensor with --tensor-type"
            )
        return (stand_in if row % FORMATS[stand_in].block_len == 0 else "F16"), misfit

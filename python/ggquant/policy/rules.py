"""The vocabulary that variants are written in: conditions with names, and rules made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .tensors import Category

__all__ = [
    "ALWAYS",
    "EXPERTS_8",
    "EXPERT_STACK",
    "FALCON",
    "FIRST_EIGHTH",
    "FIRST_FOUR",
    "FIRST_SIXTEENTH",
    "FIRST_TWO",
    "IMATRIX",
    "MANY_EXPERTS",
    "MIDDLE",
    "MORE_BITS",
    "NOT_EXPERTS_8",
    "NOT_FALCON",
    "NO_IMATRIX",
    "WIDE_GQA",
    "Rule",
    "Situation",
    "When",
    "first_match",
    "use",
]


@dataclass(frozen=True, slots=True)
class Situation:
    """What a rule may look at.

    `position` of `positions`: where the tensor stands among its kind. For attn_v-like tensors it is a
    count; for feed-forward tensors the layer (see `table.Variant.shared_rules`).
    """

    category: Category
    arch: str
    gqa: int
    n_expert: int
    imatrix: bool
    position: int
    positions: int
    stacked: bool


@dataclass(frozen=True, slots=True)
class When:
    """A condition: `test` decides it, `text` names it in tables, `places` says that it depends on the
    position."""

    text: str
    test: Callable[[Situation], bool]
    places: bool = False

    def __and__(self, other: When) -> When:
        return When(
            f"{self.text} and {other.text}",
            lambda s: self.test(s) and other.test(s),
            self.places or other.places,
        )

    def __or__(self, other: When) -> When:
        return When(
            f"{self.text}, or {other.text}",
            lambda s: self.test(s) or other.test(s),
            self.places or other.places,
        )


def _more_bits(s: Situation) -> bool:
    eighth = s.positions // 8
    return s.position < eighth or s.position >= 7 * s.positions // 8 or (s.position - eighth) % 3 == 2


ALWAYS = When("always", lambda s: True)
MORE_BITS = When("first eighth, last eighth, and every third layer between", _more_bits, places=True)
FIRST_EIGHTH = When("first eighth of the layers", lambda s: s.position < s.positions // 8, places=True)
FIRST_SIXTEENTH = When("first sixteenth of the layers", lambda s: s.position < s.positions // 16, places=True)
MIDDLE = When(
    "all but the first and last eighth of the layers",
    lambda s: s.positions // 8 <= s.position < 7 * s.positions // 8,
    places=True,
)
FIRST_TWO = When("first two tensors", lambda s: s.position < 2, places=True)
FIRST_FOUR = When("first four tensors", lambda s: s.position < 4, places=True)
WIDE_GQA = When("4 or more query heads per key/value head", lambda s: s.gqa >= 4)
MANY_EXPERTS = When("4 or more experts", lambda s: s.n_expert >= 4)
EXPERTS_8 = When("exactly 8 experts", lambda s: s.n_expert == 8)
NOT_EXPERTS_8 = When("other than 8 experts", lambda s: s.n_expert != 8)
IMATRIX = When("with an imatrix", lambda s: s.imatrix)
NO_IMATRIX = When("without an imatrix", lambda s: not s.imatrix)
FALCON = When("falcon", lambda s: s.arch == "falcon")
NOT_FALCON = When("any architecture but falcon", lambda s: s.arch != "falcon")
# bailingmoe3 also stacks its latent-attention projections, which are not experts.
EXPERT_STACK = When(
    "a stack of experts",
    lambda s: (
        s.stacked and (s.arch != "bailingmoe3" or s.category in (Category.FFN_UP, Category.FFN_GATE, Category.FFN_DOWN))
    ),
)


@dataclass(frozen=True, slots=True)
class Rule:
    """Use `format` where `when` holds."""

    format: str
    when: When = ALWAYS


def use(format: str, when: When = ALWAYS) -> Rule:
    """A rule, spelled to read well in the table."""
    return Rule(format, when)


def first_match(rules: tuple[Rule, ...], situation: Situation) -> Rule | None:
    """The first rule whose condition holds."""
    return next((rule for rule in rules if rule.when.test(situation)), None)

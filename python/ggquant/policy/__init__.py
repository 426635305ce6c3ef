"""Variants: what names like Q4_K_M mean, and the format that each gives to every tensor of a model."""

from ..overrides import Options, parse_prune_layers, parse_tensor_type, parse_tensor_type_file
from .facts import ModelFacts
from .policy import Decision, MisfitError, PolicyError, TensorHeader, choose, requires_imatrix
from .prune import Pruned, prune
from .refuse import Obstacle, Refusal, refusals, warnings
from .table import ALIASES, VARIANTS, UnknownVariantError, Variant, find_variant, variant_label
from .tensors import Category, categorize, kept_because, layer_of, order_key


def variants() -> list[Variant]:
    """Every variant, in llama-quantize's order, then ours."""
    return list(VARIANTS.values())


__all__ = [
    "ALIASES",
    "VARIANTS",
    "Category",
    "Decision",
    "MisfitError",
    "ModelFacts",
    "Obstacle",
    "Options",
    "PolicyError",
    "Pruned",
    "Refusal",
    "TensorHeader",
    "UnknownVariantError",
    "Variant",
    "categorize",
    "choose",
    "find_variant",
    "kept_because",
    "layer_of",
    "order_key",
    "parse_prune_layers",
    "parse_tensor_type",
    "parse_tensor_type_file",
    "prune",
    "refusals",
    "requires_imatrix",
    "variant_label",
    "variants",
    "warnings",
]

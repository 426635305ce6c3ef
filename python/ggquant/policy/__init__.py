"""Variants: what names like Q4_K_M mean, and the format that each gives to every tensor of a model."""

from ..overrides import (
    Options,
    parse_override_kv,
    parse_prune_layers,
    parse_tensor_type,
    parse_tensor_type_file,
)
from .explain import Exemption, Explanation, explain, needs_imatrix, render, summary
from .facts import ModelFacts
from .file_type import copied_file_type
from .policy import Decision, MisfitError, PolicyError, TensorHeader, choose, requires_imatrix
from .prune import Pruned, prune
from .refuse import Obstacle, Refusal, refusals, warnings
from .sizes import CacheFacts, VariantSize, file_bytes, kv_cache_bytes, sizes
from .table import ALIASES, VARIANTS, UnknownVariantError, Variant, find_variant, variant_label
from .tensors import Category, categorize, kept_because, layer_of, order_key


def variants() -> list[Variant]:
    """Every variant, in llama-quantize's order, then ours."""
    return list(VARIANTS.values())


__all__ = [
    "ALIASES",
    "VARIANTS",
    "CacheFacts",
    "Category",
    "Decision",
    "Exemption",
    "Explanation",
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
    "VariantSize",
    "categorize",
    "choose",
    "copied_file_type",
    "explain",
    "file_bytes",
    "find_variant",
    "kept_because",
    "kv_cache_bytes",
    "layer_of",
    "needs_imatrix",
    "order_key",
    "parse_override_kv",
    "parse_prune_layers",
    "parse_tensor_type",
    "parse_tensor_type_file",
    "prune",
    "refusals",
    "render",
    "requires_imatrix",
    "sizes",
    "summary",
    "variant_label",
    "variants",
    "warnings",
]

"""The configuration that loaders read: `quantization_config` of config.json, and quantize_config.json."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ggquant._native import __version__
from ggquant.export.modules import FUSED
from ggquant.export.scheme import Layout, Scheme


def quantization_config(
    layout: Layout,
    schemes: Mapping[str, Scheme],
    kept: Sequence[str],
    *,
    act_order: bool,
    method: str,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a loader must know.

    Args:
        schemes: the modules that are quantized, and how.
        kept: the linear modules that are not.
        act_order: groups are not made of neighbours.
        method: how codes were found.
        facts: further entries of `meta`.
    """
    common = Counter(schemes.values()).most_common(1)[0][0] if schemes else Scheme()
    if not any(module.rpartition(".")[2] == "lm_head" for module in (*kept, *schemes)):
        kept = [*kept, "lm_head"]  # A head that shares the embedding's weights has none in the files, but is a module.
    others = {module: scheme for module, scheme in schemes.items() if scheme != common}
    if layout == "compressed-tensors":
        return _compressed(common, others, kept)
    if layout == "awq":
        return {
            "quant_method": "awq",
            "bits": common.bits,
            "group_size": common.group_size,
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": list(kept) or None,
        }
    dynamic: dict[str, dict[str, Any]] = {
        f"-:{pattern}": {} for pattern in _patterns([module for module in kept if "." in module])
    }
    for scheme in sorted(set(others.values()), key=repr):
        facts_of = {"bits": scheme.bits, "group_size": scheme.group_size, "sym": scheme.symmetric}
        own = [module for module, other in others.items() if other == scheme]
        dynamic |= {f"+:{pattern}": facts_of for pattern in _patterns(own)}
    return {
        "quant_method": "gptq",
        "bits": common.bits,
        "group_size": common.group_size,
        "desc_act": act_order,
        "sym": common.symmetric,
        "lm_head": "lm_head" in schemes,
        "checkpoint_format": layout,
        "pack_dtype": "int32",
        **({"dynamic": dynamic} if dynamic else {}),
        "meta": {"quantizer": [f"ggquant:{__version__}"], "method": method, **(facts or {})},
    }


def _patterns(modules: Sequence[str]) -> list[str]:
    """Regular expressions for modules, and for the larger ones that servers load them as.

    vLLM asks for `qkv_proj` where q, k and v are loaded as one, and for `experts` as a whole.
    """
    siblings: dict[str, list[str]] = {}
    for module in modules:
        parent, _, end = module.rpartition(".")
        experts = re.match(r"(.+\.experts)\.\d+\.", module)
        siblings.setdefault(experts[1] if experts else parent, []).append("" if experts else end)
    patterns = []
    for parent, ends in siblings.items():
        if ends[0] == "":
            patterns.append(f"^{re.escape(parent)}(?:\\.|$)")
            continue
        fused = [name for name, parts in FUSED.items() if set(parts) <= set(ends)]
        patterns.append(f"^{re.escape(parent)}\\.(?:{'|'.join(map(re.escape, [*ends, *fused]))})$")
    return patterns


def _compressed(common: Scheme, others: Mapping[str, Scheme], kept: Sequence[str]) -> dict[str, Any]:
    groups = {"group_0": _group(common, ["Linear"])}
    for number, scheme in enumerate(sorted(set(others.values()), key=repr), 1):
        # Loaders take the first group that names a module before those that name its class.
        targets = [module for module, other in others.items() if other == scheme]
        groups[f"group_{number}"] = _group(scheme, targets)
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": list(kept),
        "config_groups": groups,
    }


def _group(scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    by_row = scheme.group_size == -1
    return {
        "targets": targets,
        "weights": {
            "num_bits": scheme.bits,
            "type": "int",
            "symmetric": scheme.symmetric,
            "strategy": "channel" if by_row else "group",
            "group_size": None if by_row else scheme.group_size,
            "block_structure": None,
            "dynamic": False,
            "actorder": None,
            "observer": "minmax",
            "observer_kwargs": {},
        },
        "input_activations": None,
        "output_activations": None,
    }

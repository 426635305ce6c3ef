"""Makes tests/data/variants/snapshots.json from the snapshots in llama.cpp's tree.

    PYTHONPATH=python:tests/python python tests/peers/make_snapshots.py path/to/llama.cpp/tests/snapshots

The snapshots list the decisions of llama.cpp for real models, but no shapes. What matters of a shape is the
length of a row and whether experts are stacked; `MODELS` has the lengths, from the published
hyperparameters. Which tensors each layer has is read from the section MXFP4_MOE, which lists every matrix
that is not a stack.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from decision_text import numbers, ranges, to_lines

OUTPUT = Path(__file__).parent.parent / "data/variants/snapshots.json"


@dataclass
class Rows:
    """Row lengths of a model: `embd` for tensors not listed; stacks by the layers that have them."""

    arch: str
    embd: int
    attn_output: int
    rows: dict[str, int] = field(default_factory=dict)
    stacks: dict[str, int] = field(default_factory=dict)
    stack_layers: str = ""


def experts(embd: int, ff: int) -> dict[str, int]:
    return {"ffn_gate_exps.weight": embd, "ffn_up_exps.weight": embd, "ffn_down_exps.weight": ff}


MODELS = {
    "qwen3-0.6b": Rows("qwen3", 1024, 2048, {"ffn_down": 3072}),
    "qwen3-14b": Rows("qwen3", 5120, 5120, {"ffn_down": 17408}),
    "meta-llama-3.1-70b-instruct": Rows("llama", 8192, 8192, {"ffn_down": 28672}),
    "gemma-3-4b-it": Rows("gemma3", 2560, 2048, {"ffn_down": 10240}),
    "gpt-oss-120b": Rows("gpt-oss", 2880, 4096, {}, experts(2880, 2880), "0-35"),
    "glm-4.6v": Rows("glm4moe", 4096, 12288, {"ffn_down": 10944, "ffn_down_shexp": 1408}, experts(4096, 1408), "1-45"),
    "step-3.5-flash": Rows(
        "step35", 4096, 8192, {"ffn_down": 11264, "ffn_down_shexp": 1280}, experts(4096, 1280), "3-44"
    ),
    "qwen3-coder-next": Rows(
        "qwen3next", 2048, 4096, {"ssm_out": 4096, "ffn_down_shexp": 512}, experts(2048, 512), "0-47"
    ),
    "qwen3.5-397b-a17b": Rows(
        "qwen35moe", 4096, 8192, {"ssm_out": 8192, "ffn_down_shexp": 1024}, experts(4096, 1024), "0-59"
    ),
    "qwen3.6-27b": Rows("qwen35", 5120, 6144, {"ssm_out": 6144, "ffn_down": 17408}),
    "nvidia-nemotron-3-nano-30b-a3b": Rows(
        "nemotron_h_moe",
        2688,
        4096,
        {"ssm_out": 4096, "ffn_down_shexp": 3712},
        {"ffn_up_exps.weight": 2688, "ffn_down_exps.weight": 1856},
        "shexp",
    ),
    "deepseek-v3.1": Rows(
        "deepseek2",
        7168,
        16384,
        {"attn_q_b": 1536, "ffn_down": 18432, "ffn_down_shexp": 2048},
        experts(7168, 2048),
        "3-60",
    ),
}
EXTRA_STACKS = {"deepseek-v3.1": {"attn_k_b.weight": 128, "attn_v_b.weight": 512}}


def read(path: Path) -> tuple[dict[str, int], dict[str, tuple[str, dict[str, str]]]]:
    """The header's numbers, and by variant its default format and the formats that differ."""
    facts: dict[str, int] = {}
    sections: dict[str, tuple[str, dict[str, str]]] = {}
    current: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            facts.update({k: int(v) for k, v in re.findall(r"(n_\w+)=(\d+)", line)})
        elif line.startswith("["):
            name, default = line[1:].split("] ")
            current = {}
            sections[name] = (default.upper(), current)
        elif line:
            tensor, fmt = line.rsplit(" ", 1)
            current[tensor] = fmt.upper()
    return facts, sections


def convert(path: Path, model: Rows, extra: dict[str, int]) -> dict[str, object]:
    facts, sections = read(path)
    kinds: dict[str, list[int]] = {}
    tensors: dict[str, str] = {}
    for name in sections["MXFP4_MOE"][1]:
        found = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
        if found:
            kinds.setdefault(found[2], []).append(int(found[1]))
        else:
            tensors[f"{name} -"] = f"64x{model.embd}"
    for kind, layers in kinds.items():
        stem = kind.removesuffix(".weight")
        row = model.attn_output if stem == "attn_output" else model.rows.get(stem, model.embd)
        tensors[f"{kind} {ranges(layers)}"] = f"64x{row}"
    layers_of_stacks = ranges(kinds["ffn_up_shexp.weight"]) if model.stack_layers == "shexp" else model.stack_layers
    for kind, row in model.stacks.items():
        tensors[f"{kind} {layers_of_stacks}"] = f"{facts['n_expert']}x64x{row}"
    for kind, row in extra.items():
        tensors[f"{kind} 0-{facts['n_layer'] - 1}"] = f"{facts['n_head']}x64x{row}"
    count = sum(1 if key.endswith(" -") else len(numbers(key.rsplit(" ", 1)[1])) for key in tensors)
    keep = {k: facts[k] for k in ("n_layer", "n_head", "n_head_kv", "n_expert") if k in facts}
    return {
        "arch": model.arch,
        **keep,
        "count": count,
        "tensors": tensors,
        "decisions": {v: [d, *to_lines(formats, d)] for v, (d, formats) in sections.items()},
    }


def main() -> None:
    """Writes the file."""
    folder = Path(sys.argv[1])
    data = {
        name: convert(folder / f"{name}.schema", model, EXTRA_STACKS.get(name, {})) for name, model in MODELS.items()
    }
    text = ",\n".join(
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(
            f"  {json.dumps(k)}: {json.dumps(v)}" if k != "decisions" else '  "decisions": {\n'
            + ",\n".join(f"    {json.dumps(a)}: {json.dumps(b)}" for a, b in v.items())
            + "\n  }"
            for k, v in model.items()
        )
        + "\n}"
        for name, model in data.items()
    )  # fmt: skip
    OUTPUT.write_text("{\n" + text + "\n}\n")


if __name__ == "__main__":
    main()

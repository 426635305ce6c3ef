"""Tiny random checkpoints of every model family, the same on every machine.

They hold what goes wrong easily: grouped heads, rows that 256 does not divide, norms and biases away from one
and zero, padding in the vocabulary. `tests/peers/make_families.py` gives them to llama.cpp's converter.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import ml_dtypes
import numpy as np
import numpy.typing as npt

Shapes = dict[str, tuple[int, ...]]
STORED = {
    "BF16": ml_dtypes.bfloat16,
    "F16": np.float16,
    "F32": np.float32,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "U8": np.uint8,
}


@dataclass(frozen=True)
class Case:
    """One checkpoint: its folder's name, config.json, tensors, files, and the pre-tokenizer's name.

    `dtypes` says by the end of their names which tensors are not of type `dtype`.
    """

    folder: str
    config: dict[str, Any]
    shapes: Callable[[dict[str, Any]], Shapes]
    tokenizer: Callable[[Path], None]
    dtype: str = "BF16"
    dtypes: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    shards: int = 1
    pre: str = "gpt-2"


def write(case: Case, parent: Path) -> Path:
    """Writes a case's folder under `parent`."""
    folder = parent / case.folder
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(case.config, indent=2))
    case.tokenizer(folder)
    for name, text in case.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    tensors = {name: values(name, shape, _dtype(case, name)) for name, shape in case.shapes(case.config).items()}
    names = sorted(tensors)
    if case.shards == 1:
        save(folder / "model.safetensors", tensors)
        return folder
    index: dict[str, str] = {}
    for shard in range(case.shards):
        file = f"model-{shard + 1:05}-of-{case.shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard :: case.shards]}
        save(folder / file, part)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def _dtype(case: Case, name: str) -> str:
    return next((dtype for end, dtype in case.dtypes.items() if name.endswith(end)), case.dtype)


def values(name: str, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Values of a tensor, made from its name; raw generator output, the same in every numpy version."""
    count = int(np.prod(shape))
    raw = np.random.PCG64(crc32(name.encode())).random_raw(count)
    if name.endswith(("_blocks", "_scales")):
        low, span = (0, 256) if name.endswith("_blocks") else (118, 8)
        return (low + (raw >> np.uint64(40)) % np.uint64(span)).astype(np.uint8).reshape(shape)
    uniform = (raw >> np.uint64(40)).astype(np.float64) / (1 << 24) - 0.5
    if dtype == "F8_E4M3":
        codes = (raw >> np.uint64(40)) % np.uint64(254)
        return (codes + (codes >= 127)).astype(np.uint8).view(STORED[dtype]).reshape(shape)  # all but NaN
    if "scale" in name:
        return ((uniform + 1.0) / 512).astype(np.float32).astype(STORED[dtype]).reshape(shape)
    centre, scale = (1.0, 0.5) if "norm" in name.lower() or ".ln_" in name else (0.0, 0.25)
    return (centre + scale * uniform).astype(np.float32).astype(STORED[dtype]).reshape(shape)


def save(path: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes a safetensors file."""
    kinds = {np.dtype(kind): name for name, kind in STORED.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in tensors.items():
        span = [offset, offset + array.nbytes]
        header[name] = {"dtype": kinds[array.dtype], "shape": list(array.shape), "data_offsets": span}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in tensors.values()))


def decoder(
    config: dict[str, Any],
    *,
    bias: tuple[str, ...] = (),
    head: bool = True,
    feed_forward: bool = True,
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm"),
    head_norms: bool = False,
) -> Shapes:
    """Names and shapes of a Llama-like decoder."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim") or hidden // heads
    shapes: Shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    if head:
        shapes["lm_head.weight"] = (vocab, hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        projections = {
            "q_proj": (heads * width, hidden),
            "k_proj": (kv_heads * width, hidden),
            "v_proj": (kv_heads * width, hidden),
            "o_proj": (hidden, heads * width),
        }
        for name, shape in projections.items():
            shapes[f"{at}.self_attn.{name}.weight"] = shape
            if name[0] in bias:
                shapes[f"{at}.self_attn.{name}.bias"] = shape[:1]
        if head_norms:
            shapes |= {f"{at}.self_attn.{name}_norm.weight": (width,) for name in "qk"}
        shapes |= {f"{at}.{norm}.weight": (hidden,) for norm in norms}
        if feed_forward:
            shapes |= {f"{at}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
            shapes[f"{at}.mlp.down_proj.weight"] = (hidden, inner)
    return shapes


def with_scales(shapes: Shapes, suffix: str, block: tuple[int, int] | None) -> Shapes:
    """Adds scales for the projections: one for each block, or one for each row."""
    found = dict(shapes)
    for name, shape in shapes.items():
        if "_proj." in name or name.endswith("_proj"):
            at = name.removesuffix(".weight") if suffix.startswith(".") else name
            tiles = [-(-n // size) for n, size in zip(shape[-2:], block or (1, shape[-1]), strict=True)]
            found[at + suffix] = (*shape[:-2], *tiles)
    return found


def fp8_blocks(config: dict[str, Any]) -> Shapes:
    return with_scales(decoder(config, head_norms=True), "_scale_inv", (128, 128))


def fp8_experts(config: dict[str, Any]) -> Shapes:
    return with_scales(qwen3moe(config), "_scale_inv", (128, 128))


def fp8_rows(config: dict[str, Any]) -> Shapes:
    return with_scales(decoder(config), ".weight_scale", None)


def layers(config: dict[str, Any]) -> range:
    return range(config.get("num_hidden_layers") or config["n_layer"])


def mixtral(config: dict[str, Any]) -> Shapes:
    shapes = decoder(config, feed_forward=False)
    hidden, inner, experts = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    for layer in layers(config):
        at = f"model.layers.{layer}.block_sparse_moe"
        shapes[f"{at}.gate.weight"] = (experts, hidden)
        for expert in range(experts):
            for name, shape in {"w1": (inner, hidden), "w2": (hidden, inner), "w3": (inner, hidden)}.items():
                shapes[f"{at}.experts.{expert}.{name}.weight"] = shape
    return shapes


def qwen3moe(config: dict[str, Any], fused: bool = False) -> Shapes:
    shapes = decoder(config, feed_forward=False, head_norms=True)
    hidden, inner, experts = config["hidden_size"], config["moe_intermediate_size"], config["num_experts"]
    for layer in layers(config):
        at = f"model.layers.{layer}.mlp"
        shapes[f"{at}.gate.weight"] = (experts, hidden)
        if fused:
            shapes[f"{at}.experts.gate_up_proj"] = (experts, 2 * inner, hidden)
            shapes[f"{at}.experts.down_proj"] = (experts, hidden, inner)
            continue
        for expert in range(experts):
            shapes |= {f"{at}.experts.{expert}.{n}_proj.weight": (inner, hidden) for n in ("gate", "up")}
            shapes[f"{at}.experts.{expert}.down_proj.weight"] = (hidden, inner)
    return shapes


_GEMMA_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def gemma2(config: dict[str, Any]) -> Shapes:
    return decoder(config, head=False, norms=_GEMMA_NORMS)


def gemma3(config: dict[str, Any]) -> Shapes:
    return decoder(config, head=False, norms=_GEMMA_NORMS, head_norms=True)


def gemma3_with_vision(config: dict[str, Any]) -> Shapes:
    shapes = {f"language_model.{name}": shape for name, shape in gemma3(config["text_config"]).items()}
    return shapes | {
        "vision_tower.vision_model.embeddings.position_embedding.weight": (16, 32),
        "multi_modal_projector.mm_soft_emb_norm.weight": (32,),
    }


def phi3(config: dict[str, Any]) -> Shapes:
    shapes = decoder(config, feed_forward=False)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    rows = hidden // config["num_attention_heads"] * (config["num_attention_heads"] + 2 * config["num_key_value_heads"])
    for layer in layers(config):
        at = f"model.layers.{layer}"
        for name in "qkv":
            del shapes[f"{at}.self_attn.{name}_proj.weight"]
        shapes[f"{at}.self_attn.qkv_proj.weight"] = (rows, hidden)
        shapes[f"{at}.mlp.gate_up_proj.weight"] = (2 * inner, hidden)
        shapes[f"{at}.mlp.down_proj.weight"] = (hidden, inner)
    return shapes


def gpt2(config: dict[str, Any]) -> Shapes:
    hidden = config["n_embd"]
    shapes: Shapes = {
        "transformer.wte.weight": (config["vocab_size"], hidden),
        "transformer.wpe.weight": (config["n_positions"], hidden),
        "transformer.ln_f.weight": (hidden,),
        "transformer.ln_f.bias": (hidden,),
    }
    for layer in layers(config):
        at = f"transformer.h.{layer}"
        for name, rows, columns in (
            ("attn.c_attn", hidden, 3 * hidden),
            ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, 4 * hidden),
            ("mlp.c_proj", 4 * hidden, hidden),
        ):
            shapes[f"{at}.{name}.weight"] = (rows, columns)
            shapes[f"{at}.{name}.bias"] = (columns,)
        shapes |= {f"{at}.{norm}.{part}": (hidden,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
    return shapes


def starcoder2(config: dict[str, Any]) -> Shapes:
    shapes = decoder(config, bias=("q", "k", "v", "o"), head=False, feed_forward=False)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes |= {name.replace(".weight", ".bias"): s for name, s in list(shapes.items()) if "norm" in name}
    for layer in layers(config):
        at = f"model.layers.{layer}.mlp"
        shapes |= {f"{at}.c_fc.weight": (inner, hidden), f"{at}.c_fc.bias": (inner,)}
        shapes |= {f"{at}.c_proj.weight": (hidden, inner), f"{at}.c_proj.bias": (hidden,)}
    return shapes


def olmo2(config: dict[str, Any]) -> Shapes:
    shapes = decoder(config, norms=("post_attention_layernorm", "post_feedforward_layernorm"))
    for layer in layers(config):
        at = f"model.layers.{layer}.self_attn"
        shapes[f"{at}.q_norm.weight"] = shapes[f"{at}.q_proj.weight"][:1]
        shapes[f"{at}.k_norm.weight"] = shapes[f"{at}.k_proj.weight"][:1]
    return shapes


def gpt_oss(config: dict[str, Any], packed: bool = False) -> Shapes:
    shapes = decoder(config, bias=("q", "k", "v", "o"), feed_forward=False)
    hidden, inner, experts = config["hidden_size"], config["intermediate_size"], config["num_local_experts"]
    for layer in layers(config):
        at = f"model.layers.{layer}"
        shapes[f"{at}.self_attn.sinks"] = (config["num_attention_heads"],)
        shapes[f"{at}.mlp.router.weight"] = (experts, hidden)
        shapes[f"{at}.mlp.router.bias"] = (experts,)
        shapes[f"{at}.mlp.experts.gate_up_proj_bias"] = (experts, 2 * inner)
        shapes[f"{at}.mlp.experts.down_proj_bias"] = (experts, hidden)
        for name, inputs, outputs in (("gate_up_proj", hidden, 2 * inner), ("down_proj", inner, hidden)):
            if packed:
                shapes[f"{at}.mlp.experts.{name}_blocks"] = (experts, outputs, inputs // 32, 16)
                shapes[f"{at}.mlp.experts.{name}_scales"] = (experts, outputs, inputs // 32)
            else:
                shapes[f"{at}.mlp.experts.{name}"] = (experts, inputs, outputs)
    return shapes


def bert(config: dict[str, Any]) -> Shapes:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {
        "bert.embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "bert.embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "bert.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], hidden),
        "bert.embeddings.LayerNorm.gamma": (hidden,),
        "bert.embeddings.LayerNorm.beta": (hidden,),
        "bert.pooler.dense.weight": (hidden, hidden),
        "bert.pooler.dense.bias": (hidden,),
    }
    for layer in layers(config):
        at = f"bert.encoder.layer.{layer}"
        for name, rows, columns in (
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ):
            shapes[f"{at}.{name}.weight"] = (rows, columns)
            shapes[f"{at}.{name}.bias"] = (rows,)
        for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{at}.{norm}.{part}": (hidden,) for part in ("weight", "bias")}
    return shapes


def xlm_roberta(config: dict[str, Any]) -> Shapes:
    return {name.replace("bert.", "roberta.", 1): shape for name, shape in bert(config).items()}

"""Packed weights made by the packages that own the layouts, and the values those packages read from them.

    python tests/peers/make_packed.py --autoawq TREE --auto-round TREE

Needs torch, gptqmodel, compressed-tensors and transformers, and the unpacked source distributions of autoawq and
auto-round, whose modules are loaded one by one: the packages as a whole do not import beside a current transformers.
Writes tests/data/packed/<case>.safetensors: the parts of one module under the names a checkpoint gives them, and
`expected`, the dequantized weights `[O, I]` in the type that the package gives them. The metadata hold the entries of
the quantization configuration as JSON, and the versions of the packages.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import types
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[1] / "data" / "packed"
MODULE = "model.layers.0.mlp.down_proj"
GENERATOR = torch.Generator().manual_seed(20)

Parts = dict[str, torch.Tensor]
Made = tuple[Parts, torch.Tensor, dict[str, Any]]


def grid(w: torch.Tensor, bits: int, group: int, sym: bool, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points `[O, G]` of groups of neighbours."""
    parts = w.float().unflatten(1, (-1, group if group > 0 else w.shape[1]))
    top = 2**bits - 1
    low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
    if sym:
        return (2 * torch.maximum(-low, high) / top).to(dtype), torch.full_like(low, 2 ** (bits - 1)).int()
    scale = ((high - low) / top).to(dtype)
    return scale, (-low / scale.float()).round().clamp(0, top).int()


def weights(rows: int, columns: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=GENERATOR) * 0.05 + shift


def linear(w: torch.Tensor) -> torch.nn.Linear:
    layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight.data = w
    return layer


def gptq(bits: int, group: int, *, sym: bool, v1: bool, act_order: bool = False) -> Made:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization import FORMAT
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    w = weights(64, 96, 0.01)
    groups = torch.arange(96, dtype=torch.int32) // (group if group > 0 else 96)
    if act_order:
        groups = groups[torch.randperm(96, generator=GENERATOR)]
    order = torch.argsort(groups, stable=True)
    scale, zero = grid(w[:, order], bits, group, sym, torch.float16)
    zero = zero.clamp(min=1)  # The first version cannot store zero points of 0.
    layer = TorchLinear(bits, group, sym, act_order, 96, 64, format=FORMAT.GPTQ_V2)
    layer.pack_original(linear(w), scale.float(), zero.float(), groups)
    layer.post_init()
    expected = layer.dequantize_weight().T.contiguous()
    if v1:
        convert_gptq_v2_to_v1_format_module(layer, types.SimpleNamespace(bits=bits, pack_dtype=torch.int32))
    parts = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales", "g_idx")}
    config = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": sym, "desc_act": act_order}
    return parts, expected, config | {"checkpoint_format": "gptq" if v1 else "gptq_v2"}


def awq(group: int) -> Made:
    gemm = importlib.import_module("awq.modules.linear.gemm").WQLinear_GEMM
    unpack = importlib.import_module("awq.utils.packing_utils").dequantize_gemm
    w = weights(64, 128, 0.01)
    scale, zero = grid(w, 4, group, False, torch.float16)
    layer = gemm.from_linear(linear(w.half()), 4, group, scales=scale.T.contiguous(), zeros=zero.T.contiguous().half())
    expected = unpack(layer.qweight, layer.qzeros, layer.scales, 4, layer.group_size).T.contiguous()
    parts = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")}
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    return parts, expected, config


def packed(bits: int, group: int, *, sym: bool) -> Made:
    from compressed_tensors.compressors import PackedQuantizationCompressor as Compressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    w = weights(40, 96, 0.01).bfloat16()
    args: dict[str, Any] = {"num_bits": bits, "symmetric": sym, "strategy": "group" if group > 0 else "channel"}
    if group > 0:
        args["group_size"] = group
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
    scale, zero = grid(w, bits, group, sym, torch.bfloat16)
    state = {"weight": w, "weight_scale": scale, "weight_zero_point": (zero - 2 ** (bits - 1)).to(torch.int8)}
    parts = Compressor.compress(state, scheme)
    expected = Compressor.decompress(dict(parts), scheme)["weight"]
    return parts, expected, compressed_config("pack-quantized", args)


def bytes_of(kind: str, strategy: str) -> Made:
    from compressed_tensors.compressors import NaiveQuantizationCompressor as Compressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    w = weights(40, 96).bfloat16()
    args: dict[str, Any] = {"num_bits": 8, "type": kind, "symmetric": True, "strategy": strategy}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
    top = 448 if kind == "float" else 127
    peak = w.abs().amax(-1, keepdim=True) if strategy == "channel" else w.abs().amax().reshape(1)
    state = {"weight": w, "weight_scale": (peak.float() / top).bfloat16()}
    parts = Compressor.compress(state, scheme)
    expected = Compressor.decompress(dict(parts), scheme)["weight"]
    return parts, expected, compressed_config("float-quantized" if kind == "float" else "int-quantized", args)


def compressed_config(form: str, args: dict[str, Any]) -> dict[str, Any]:
    groups = {"group_0": {"targets": ["Linear"], "weights": args}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": groups, "ignore": ["lm_head"]}


def fp8_blocks() -> Made:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    w = weights(64, 128)
    scale = w.unflatten(0, (2, 32)).unflatten(2, (4, 32)).abs().amax((1, 3)) / 448
    codes = (w / scale.repeat_interleave(32, 0).repeat_interleave(32, 1)).to(torch.float8_e4m3fn)
    expected = Fp8Dequantize(None)._dequantize_one(codes, scale, torch.float32)
    config = {"quant_method": "fp8", "weight_block_size": [32, 32], "activation_scheme": "dynamic"}
    return {"weight": codes, "weight_scale_inv": scale}, expected, config


def auto_round(bits: int, *, sym: bool, packing: str) -> Made:
    name = "qlinear_torch_zp" if "gptq" in packing else "qlinear_torch"
    layer_type = importlib.import_module(f"auto_round_extension.torch.{name}").QuantLinear
    w = weights(64, 96, 0.01)
    scale, zero = grid(w, bits, 32, sym, torch.float16)
    layer = layer_type(bits, 32, 96, 64, False)
    layer.device = "cpu"
    layer.pack(linear(w), scale.float(), 2 ** (bits - 1) if sym else zero.clamp(min=1), None, "cpu")
    # The forward pass of a unit matrix gives the weights.
    expected = layer.half()(torch.eye(96, dtype=torch.float16)).T.contiguous()
    parts = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")}
    config = {"quant_method": "auto-round", "bits": bits, "group_size": 32, "sym": sym, "packing_format": packing}
    return parts, expected, config


CASES: dict[str, Callable[[], Made]] = {
    "gptq-4-sym": lambda: gptq(4, 32, sym=True, v1=True),
    "gptq-4-asym": lambda: gptq(4, 32, sym=False, v1=True),
    "gptq-4-row": lambda: gptq(4, -1, sym=True, v1=True),
    "gptq-2-asym-v2": lambda: gptq(2, 32, sym=False, v1=False),
    "gptq-3-asym": lambda: gptq(3, 32, sym=False, v1=True),
    "gptq-3-sym-v2": lambda: gptq(3, 32, sym=True, v1=False),
    "gptq-8-sym": lambda: gptq(8, 32, sym=True, v1=True),
    "gptq-4-act-order": lambda: gptq(4, 32, sym=False, v1=True, act_order=True),
    "awq-4": lambda: awq(32),
    "ct-4-sym": lambda: packed(4, 32, sym=True),
    "ct-4-asym": lambda: packed(4, 32, sym=False),
    "ct-3-asym": lambda: packed(3, 32, sym=False),
    "ct-8-channel": lambda: packed(8, -1, sym=True),
    "ct-int8-channel": lambda: bytes_of("int", "channel"),
    "ct-fp8-channel": lambda: bytes_of("float", "channel"),
    "ct-fp8-tensor": lambda: bytes_of("float", "tensor"),
    "fp8-blocks": fp8_blocks,
    "auto-round-4-sym": lambda: auto_round(4, sym=True, packing="auto_round:auto_gptq"),
    "auto-round-2-asym": lambda: auto_round(2, sym=False, packing="auto_round"),
    "auto-round-5-asym": lambda: auto_round(5, sym=False, packing="auto_round"),
}


def by_module(tree: Path, *names: str) -> None:
    """Lets modules of packages be imported without running the packages' own code."""
    for name in names:
        package = types.ModuleType(name)
        package.__path__ = [str(tree / name.replace(".", "/"))]
        sys.modules[name] = package


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--autoawq", type=Path, required=True)
    parser.add_argument("--auto-round", type=Path, required=True)
    args = parser.parse_args()
    by_module(args.autoawq, "awq", "awq.utils", "awq.modules", "awq.modules.linear")
    by_module(args.auto_round, "auto_round", "auto_round.utils", "auto_round_extension", "auto_round_extension.torch")
    sys.modules["auto_round.utils"].get_packing_device = lambda device=None: "cpu"
    versions = {name: version(name) for name in ("torch", "compressed-tensors", "transformers")}
    OUT.mkdir(parents=True, exist_ok=True)
    for name, make in CASES.items():
        parts, expected, config = make()
        tensors = {f"{MODULE}.{part}": tensor.detach().contiguous() for part, tensor in parts.items()}
        tensors["expected"] = expected.detach().contiguous()
        metadata = {"quantization_config": json.dumps(config), "versions": json.dumps(versions)}
        save_file(tensors, OUT / f"{name}.safetensors", metadata)
        print(name, {part: tuple(tensor.shape) for part, tensor in parts.items()}, expected.dtype)


if __name__ == "__main__":
    main()

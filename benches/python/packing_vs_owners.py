"""Packing and unpacking against the code of the packages that own the layouts, on this CPU, in one run.

    python benches/python/packing_vs_owners.py --autoawq TREE [--rows 4096 --columns 4096]

In the environment of `make test-owners`; `--autoawq` is the unpacked source distribution. "pack": weights into the
stored tensors; theirs are given the scales, ours finds them. "unpack": stored tensors into float weights; theirs come
from memory, ours from files in the page cache. Times are the best of three, or of as many as begin within a second;
`copy` is what a copy of the float32 weights takes. With TORCHDYNAMO_DISABLE=1 gptqmodel does not compile first.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from ggquant import _native
from ggquant.checkpoint_index import read_header
from ggquant.export.layouts import Codes, parts
from ggquant.export.modules import StoredWeights
from ggquant.export.scheme import Layout, Scheme
from ggquant.packed.checkpoint import Quantization, unpacked

GROUP = 128


def best(work: Callable[[], Any], runs: int = 3) -> float:
    times: list[float] = []
    while len(times) < runs and sum(times) < 1:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def our_pack(w: np.ndarray, layout: Layout, scheme: Scheme) -> dict[str, np.ndarray]:
    rows, columns = w.shape
    codes, scales, zeros = _native.round_to_nearest(
        w.reshape(-1), columns, scheme.bits, GROUP, scheme.symmetric, "F16", 0, None
    )
    groups = columns // GROUP
    made = Codes(codes.reshape(w.shape), scales.reshape(rows, groups), zeros.reshape(rows, groups))
    stored = parts(layout, scheme, rows, columns, "F16", threads=None)
    return {part.end: (part, part.make(made)) for part in stored}


def our_unpack(folder: Path, w: np.ndarray, layout: Layout, scheme: Scheme) -> Callable[[], Any]:
    kinds = {"I32": torch.int32, "F16": torch.float16, "I64": torch.int64}
    tensors = {
        f"model.layers.0.mlp.down_proj.{end}": torch.from_numpy(data).view(kinds[part.dtype]).reshape(part.shape)
        for end, (part, data) in our_pack(w, layout, scheme).items()
    }
    save_file(tensors, folder / "model.safetensors")
    args = {"num_bits": scheme.bits, "symmetric": scheme.symmetric, "group_size": GROUP}
    method = layout.removesuffix("_v2")
    config = {
        "quant_method": method, "bits": scheme.bits, "group_size": GROUP, "sym": scheme.symmetric,
        "checkpoint_format": "gemm" if layout == "awq" else layout,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args}},
    }  # fmt: skip
    stored = unpacked(read_header(folder / "model.safetensors"), Quantization(method, config, Path("c")), [])
    weights = StoredWeights(stored["model.layers.0.mlp.down_proj.weight"])
    return lambda: weights.values(0, len(w), None)


def grid(w: torch.Tensor, bits: int, sym: bool) -> tuple[torch.Tensor, torch.Tensor]:
    parts = w.unflatten(1, (-1, GROUP))
    low, high = parts.amin(-1).clamp(max=0), parts.amax(-1).clamp(min=0)
    if sym:
        return 2 * torch.maximum(-low, high) / (2**bits - 1), torch.full_like(low, 2 ** (bits - 1))
    scale = (high - low) / (2**bits - 1)
    return scale, (-low / scale).round().clamp(1, 2**bits - 1)


def linear(w: torch.Tensor) -> torch.nn.Linear:
    layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight.data = w
    return layer


def gptq(w: torch.Tensor, bits: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization import FORMAT

    scale, zero = grid(w, bits, sym=False)
    groups = torch.arange(w.shape[1], dtype=torch.int32) // GROUP
    layer = TorchLinear(bits, GROUP, False, False, w.shape[1], w.shape[0], format=FORMAT.GPTQ_V2)
    source = linear(w)

    def pack() -> None:
        layer.pack(source, scale, zero, groups)

    pack()
    layer.post_init()
    return pack, layer.dequantize_weight


def awq(tree: Path, w: torch.Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    for name in ("awq", "awq.utils", "awq.modules", "awq.modules.linear"):
        package = types.ModuleType(name)
        package.__path__ = [str(tree / name.replace(".", "/"))]
        sys.modules[name] = package
    gemm = importlib.import_module("awq.modules.linear.gemm").WQLinear_GEMM
    unpack = importlib.import_module("awq.utils.packing_utils").dequantize_gemm
    scale, zero = grid(w, 4, sym=False)
    source = linear(w.half())

    def pack() -> Any:
        return gemm.from_linear(source, 4, GROUP, scales=scale.T.contiguous().half(), zeros=zero.T.contiguous().half())

    made = pack()
    return pack, lambda: unpack(made.qweight, made.qzeros, made.scales, 4, GROUP)


def compressed(w: torch.Tensor, bits: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    from compressed_tensors.compressors import PackedQuantizationCompressor as Compressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(num_bits=bits, symmetric=True, strategy="group", group_size=GROUP)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    scale, _ = grid(w, bits, sym=True)
    state = {"weight": w, "weight_scale": scale}
    made = Compressor.compress(dict(state), scheme)
    return lambda: Compressor.compress(dict(state), scheme), lambda: Compressor.decompress(dict(made), scheme)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoawq", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=4096)
    given = parser.parse_args()
    w = torch.randn(given.rows, given.columns, generator=torch.Generator().manual_seed(1)) * 0.02
    ours = np.ascontiguousarray(w.numpy())
    copy = best(lambda: np.copyto(np.empty_like(ours), ours))
    print(f"{given.rows} x {given.columns}, {torch.get_num_threads()} threads of torch, copy {copy * 1e3:.0f} ms")
    cases: list[tuple[str, Layout, Scheme, Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]]] = [
        ("gptqmodel, 4 bits", "gptq_v2", Scheme(4, GROUP, False), lambda: gptq(w, 4)),
        ("gptqmodel, 3 bits", "gptq_v2", Scheme(3, GROUP, False), lambda: gptq(w, 3)),
        ("autoawq, 4 bits", "awq", Scheme(4, GROUP, False), lambda: awq(given.autoawq, w)),
        ("compressed-tensors, 4 bits", "compressed-tensors", Scheme(4, GROUP, True), lambda: compressed(w, 4)),
        ("compressed-tensors, 3 bits", "compressed-tensors", Scheme(3, GROUP, True), lambda: compressed(w, 3)),
    ]
    results = {}
    for name, layout, scheme, theirs in cases:
        pack, unpack = theirs()
        with tempfile.TemporaryDirectory() as folder:
            read = our_unpack(Path(folder), ours, layout, scheme)
            times = {
                "pack": (best(lambda: our_pack(ours, layout, scheme)), best(pack)),  # noqa: B023
                "unpack": (best(read), best(unpack)),
            }
        results[name] = times
        for what, (mine, other) in times.items():
            print(f"{name:28}{what:8}{mine * 1e3:8.1f} ms  theirs {other * 1e3:9.1f} ms  x{other / mine:.1f}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()

"""What the packages that own the layouts read from our checkpoints, against what we read.

    python tests/owners/read_back.py --autoawq TREE

In an environment with ggquant, torch, gptqmodel and compressed-tensors; `--autoawq` is the unpacked source
distribution, of which one module is used. Exports the bundled model in every layout, by rounding and (in act-order) by
GPTQ, and compares the weights of all modules, bit for bit. Exits with 1 if any differs. With TORCHDYNAMO_DISABLE=1
gptqmodel reads without compiling first, which takes it minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from ggquant.checkpoint_index import index_checkpoint
from ggquant.export.calibrated import Calibration
from ggquant.export.modules import StoredWeights
from ggquant.export.run import export_checkpoint
from ggquant.export.scheme import Scheme
from ggquant.packed.checkpoint import quantization_of, unpacked

TINYLM = Path(__file__).resolve().parents[1] / "data" / "tinylm"

CASES = [
    ("gptq", Scheme(4, 32, True)),
    ("gptq", Scheme(8, 64, True)),
    ("gptq", Scheme(3, 64, True)),
    ("gptq", Scheme(2, 128, True)),
    ("gptq_v2", Scheme(4, 64, False)),
    ("gptq_v2", Scheme(3, 32, False)),
    ("gptq_v2", Scheme(2, -1, False)),
    ("awq", Scheme(4, 64, False)),
    ("compressed-tensors", Scheme(4, 32, True)),
    ("compressed-tensors", Scheme(4, 64, False)),
    ("compressed-tensors", Scheme(3, 64, False)),
    ("compressed-tensors", Scheme(8, -1, True)),
]

#: Solved by GPTQ, with groups that are not made of neighbours.
ACT_ORDER = [
    ("gptq", Scheme(4, 64, True)),
    ("gptq_v2", Scheme(3, 128, False)),
]

Parts = dict[str, torch.Tensor]


def gptq(parts: Parts, config: dict[str, Any]) -> torch.Tensor:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization import FORMAT
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    columns, rows = parts["g_idx"].shape[0], parts["scales"].shape[1]
    v1 = config["checkpoint_format"] == "gptq"
    kind = FORMAT.GPTQ if v1 else FORMAT.GPTQ_V2
    bits, group_size = config["bits"], config["group_size"]
    layer = TorchLinear(bits, group_size, config["sym"], config["desc_act"], columns, rows, format=kind)
    missing = layer.load_state_dict(parts, strict=False).missing_keys
    assert not [name for name in missing if not name.startswith("wf")], missing
    if v1:
        convert_gptq_v1_to_v2_format_module(layer, bits, torch.int32)
    layer.post_init()
    return layer.dequantize_weight().T


def compressed(parts: Parts, config: dict[str, Any]) -> torch.Tensor:
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationConfig

    made = QuantizationConfig.model_validate(config)
    (scheme,) = made.config_groups.values()
    return PackedQuantizationCompressor.decompress(parts, scheme)["weight"]


def awq(tree: Path) -> Callable[[Parts, dict[str, Any]], torch.Tensor]:
    spec = importlib.util.spec_from_file_location("packing_utils", tree / "awq" / "utils" / "packing_utils.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def read(parts: Parts, config: dict[str, Any]) -> torch.Tensor:
        group_size = config["group_size"]
        return module.dequantize_gemm(parts["qweight"], parts["qzeros"], parts["scales"], 4, group_size).T

    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--autoawq", type=Path, required=True)
    readers = {"awq": awq(parser.parse_args().autoawq), "compressed-tensors": compressed}
    failed = 0
    solved = Calibration(chunks=2, context=64, act_order=True)
    for layout, scheme, how in [(*case, None) for case in CASES] + [(*case, solved) for case in ACT_ORDER]:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "out"
            method = None if how is None else "gptq"
            report = export_checkpoint(TINYLM, folder, layout, scheme=scheme, method=method, calibration=how)
            values = json.loads((folder / "config.json").read_text())
            quantization = quantization_of(values, folder / "config.json")
            assert quantization is not None
            ours = unpacked(index_checkpoint(folder), quantization, [])
            tensors = load_file(folder / "model.safetensors")
            differing = 0
            for module in report.modules:
                prefix = module.name + "."
                parts = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
                theirs = readers.get(layout, gptq)(parts, values["quantization_config"]).contiguous()
                stored = ours[prefix + "weight"]
                mine = torch.from_numpy(StoredWeights(stored).values(0, stored.shape[0], None)).to(theirs.dtype)
                same = np.array_equal(mine.view(torch.uint8).numpy(), theirs.detach().view(torch.uint8).numpy())
                differing += not same
        order = ", in act-order" if how is not None else ""
        print(f"{layout}, {scheme.label}{order}: {len(report.modules)} modules, {differing} differ")
        failed += differing
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

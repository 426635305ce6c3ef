"""Packed weights against the values that the layouts' own packages read from them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ggquant as gg
from ggquant.checkpoint_index import read_header
from ggquant.model import View
from ggquant.native_plan import packed_values
from packed_files import CASES, FOLDER, MODULE, array, config, read, weight


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_the_package(case: str) -> None:
    stored = read_header(FOLDER / f"{case}.safetensors")
    expected = array(stored.pop("expected"))
    values = read(weight(stored, config(case)))
    # The packages give the product in the type of the scales; ours is exact, so one rounding leads to theirs.
    assert np.array_equal(values.astype(expected.dtype).view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("case", ["gptq-3-asym", "awq-4", "ct-4-asym", "ct-int8-channel", "fp8-blocks"])
def test_any_walk_over_rows(case: str) -> None:
    stored = read_header(FOLDER / f"{case}.safetensors")
    del stored["expected"]
    tensor = weight(stored, config(case))
    whole = read(tensor)
    rows, columns = tensor.shape
    # Halves of the rows interleaved, as for ggml's rotary positions, from the fourth row on.
    half = (rows - 4) // 2
    view = View(
        tensor.file,
        tensor.offset,
        "F32",
        (half, 2, columns),
        (columns, half * columns, 1),
        4 * columns,
        packed=tensor.packed,
    )
    found = packed_values(view, 2).reshape(-1, columns)
    wanted = whole[4 : 4 + 2 * half].reshape(2, half, columns).swapaxes(0, 1).reshape(-1, columns)
    assert np.array_equal(found, wanted)


def test_columns_cannot_be_taken_apart() -> None:
    stored = read_header(FOLDER / "gptq-4-sym.safetensors")
    del stored["expected"]
    tensor = weight(stored, config("gptq-4-sym"))
    rows, columns = tensor.shape
    transposed = View(tensor.file, tensor.offset, "F32", (columns, rows), (1, columns), packed=tensor.packed)
    with pytest.raises(gg.UnsupportedError, match="whole rows"):
        packed_values(transposed, 1)
    too_far = View(tensor.file, tensor.offset, "F32", (rows, columns), (columns, 1), columns, packed=tensor.packed)
    with pytest.raises(gg.ShapeError, match="leaves 64 rows"):
        packed_values(too_far, 1)


@pytest.mark.parametrize(("case", "claim"), [("gptq-4-sym", "gptq_v2"), ("gptq-3-sym-v2", "gptq")])
def test_a_version_that_lies_is_found_out(case: str, claim: str) -> None:
    stored = read_header(FOLDER / f"{case}.safetensors")
    expected = array(stored.pop("expected"))
    warnings: list[str] = []
    values = read(weight(stored, {**config(case), "checkpoint_format": claim}, warnings))
    assert np.array_equal(values.astype(expected.dtype), expected)
    assert len(warnings) == 1
    assert f"not of {claim}" in warnings[0]


def test_mixed_widths_need_no_configuration() -> None:
    stored = read_header(FOLDER / "auto-round-2-asym.safetensors")
    expected = array(stored.pop("expected"))
    wrong = {**config("auto-round-2-asym"), "bits": 4, "group_size": 128}
    assert np.array_equal(read(weight(stored, wrong)).astype(expected.dtype), expected)


def test_zero_point_0_of_the_first_version(tmp_path: Path) -> None:
    path = tmp_path / "changed.safetensors"
    shutil.copy(FOLDER / "gptq-4-asym.safetensors", path)
    stored = read_header(path)
    del stored["expected"]
    zeros = array(stored[f"{MODULE}.qzeros"]).view(np.uint32)
    zeros[1, 2] |= 0xF00  # output 18 of group 1
    with path.open("r+b") as file:
        file.seek(stored[f"{MODULE}.qzeros"].offset)
        file.write(zeros.tobytes())
    with pytest.raises(gg.MalformedFileError, match=r"row 18, group 1: zero point 0 .* gptq_v2"):
        read(weight(stored, config("gptq-4-asym")))
    # The second version stores it as it is.
    values = read(weight(stored, {**config("gptq-4-asym"), "checkpoint_format": "gptq_v2"}))
    assert values.shape == (64, 96)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"quant_method": "bitsandbytes"}, gg.UnsupportedError, "quantized 'bitsandbytes'"),
        ({"quant_method": ""}, gg.UnsupportedError, "not named"),
        ({"checkpoint_format": "marlin"}, gg.UnsupportedError, "packed as 'marlin'"),
    ],
)
def test_what_is_not_read_is_refused(change: dict[str, str], error: type[gg.Error], text: str) -> None:
    stored = read_header(FOLDER / "gptq-4-sym.safetensors")
    with pytest.raises(error, match=text):
        weight(stored, config("gptq-4-sym") | change)


@pytest.mark.parametrize("part", ["qzeros", "scales", "g_idx"])
def test_missing_parts(part: str) -> None:
    stored = read_header(FOLDER / "gptq-4-act-order.safetensors")
    del stored[f"{MODULE}.{part}"]
    with pytest.raises(gg.CheckpointError, match=part):
        weight(stored, config("gptq-4-act-order"))


def test_neighbouring_groups_need_no_list() -> None:
    stored = read_header(FOLDER / "gptq-4-asym.safetensors")
    expected = array(stored.pop("expected"))
    del stored[f"{MODULE}.g_idx"]
    assert np.array_equal(read(weight(stored, config("gptq-4-asym"))).astype(expected.dtype), expected)


def test_shapes_that_do_not_fit() -> None:
    for case, part, shape in [
        ("gptq-4-sym", "scales", (3, 63)),
        ("gptq-4-sym", "qweight", (13, 64)),
        ("gptq-4-sym", "g_idx", (80,)),
        ("awq-4", "qzeros", (3, 8)),
        ("ct-4-asym", "weight_packed", (40, 11)),
        ("ct-4-asym", "weight_scale", (39, 3)),
        ("ct-4-asym", "weight_zero_point", (4, 3)),
        ("ct-fp8-channel", "weight_scale", (39, 1)),
    ]:
        stored = read_header(FOLDER / f"{case}.safetensors")
        name = f"{MODULE}.{part}"
        stored[name] = replace(stored[name], shape=shape)
        with pytest.raises(gg.CheckpointError):
            weight(stored, config(case))

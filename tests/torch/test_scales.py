"""Kept scales in few passes, and learned ones: gradients against finite differences, and what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ggquant as gg
from conftest import make, resumes_bit_for_bit, tokens
from ggquant import qat
from ggquant.qat import kept, learned
from ggquant.qat.prepare import fakes, originals
from ggquant.registry import format_info

SCALAR = kept._native.scalar_formats()
FLOATS = [format for format in SCALAR if learned.has_float_scales(format)]
UP_PROJ = "model.layers.1.mlp.up_proj.weight"


def moved_rows(format: str, rows: int = 24) -> tuple[torch.Tensor, np.ndarray]:
    """Rows, and the blocks that others near them are encoded to: some weights lie beyond their range."""
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(rows, 512, generator=generator) * torch.logspace(-4, 2, rows)[:, None]
    base[3, :256] = 0
    blocks = gg.quantize(base, format).data.reshape(-1).copy()
    return base * (1 + 0.4 * torch.randn(base.shape, generator=generator)), blocks


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("format", SCALAR)
def test_the_nearest_values_are_those_of_the_codes(format: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, blocks = moved_rows(format)
    monkeypatch.setattr(kept, "_CACHED", 3 * 512)  # several parts, the last one smaller
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        grid = kept.grid_of(format, blocks, 512, rows.device)
        out = torch.empty_like(rows)
        grid.nearest(rows, out)
    finally:
        torch.set_num_threads(before)
    wanted = grid.values(grid.codes(rows))
    assert torch.equal(out.view(torch.int32), wanted.view(torch.int32))


@pytest.mark.parametrize("format", SCALAR)
def test_weights_drawn_into_cells_have_their_codes(format: str) -> None:
    rows, blocks = moved_rows(format)
    grid = kept.grid_of(format, blocks, 512, rows.device)
    values = torch.from_numpy(gg.dequantize(blocks, format, tuple(rows.shape)))
    near = grid.drawn_in(rows, values, 0.02)
    assert torch.equal(grid.codes(near), grid.codes(values))
    # Those well inside of their cell stay, up to the way to units of the scale and back: two roundings of numbers no
    # larger than what lies at the end of the range.
    largest = (grid.scale.abs() * grid.table.abs().max() + (0 if grid.offset is None else grid.offset.abs())) * 2**-22
    bound = largest.expand(-1, -1, grid.sub_len).reshape(rows.shape)
    deep = (rows - values).abs() <= 0.4 * _step(grid).reshape(rows.shape)
    assert deep.any()
    assert bool(((near - rows).abs() <= bound)[deep].all())
    middle = grid.drawn_in(rows, values, 1.0)
    scaled = (grid.scale != 0).expand(-1, -1, grid.sub_len).reshape(rows.shape)
    assert bool(((middle - values).abs() <= bound)[scaled].all())
    assert torch.equal(near[~scaled], rows[~scaled])


def _step(grid: kept.Grid) -> torch.Tensor:
    least = float((grid.table[1:] - grid.table[:-1]).min())
    return (grid.scale.abs() * least).expand(-1, -1, grid.sub_len)


def test_the_fewest_formats_are_left_out() -> None:
    # E8M0 and UE4M3 scales are powers of two and eight-bit floats of sub-blocks.
    assert set(SCALAR) - set(FLOATS) == {"MXFP4", "NVFP4"}


@pytest.mark.parametrize("format", FLOATS)
def test_gains_multiply_what_blocks_decode_to(format: str) -> None:
    _, blocks = moved_rows(format)
    model = make("llama")
    qat.prepare(model, "Q8_0", scheme={"ffn_up": format})
    piece = fakes(model)[UP_PROJ].pieces[0]
    count = blocks.size // format_info(format).block_bytes
    gains = torch.full((count, learned.unit_gains(piece).shape[1]), 2.0)
    twice = learned.with_gains(piece, blocks, gains)
    # A power of two goes through every rounding, so the format's floats are found exactly if this holds.
    shape = (24, 512)
    assert np.array_equal(gg.dequantize(twice, format, shape), 2 * gg.dequantize(blocks, format, shape))
    with pytest.raises(gg.NonFiniteError, match="learned scale"):
        learned.with_gains(piece, blocks, gains * 1e9)


@pytest.mark.parametrize("format", FLOATS)
def test_slopes_of_gains_are_those_of_the_surrogate(format: str) -> None:
    """Rounding is held fixed, as an offset from the exact quotient, as LSQ has it; the rest is differentiated."""
    model = make("llama")
    qat.prepare(model, "Q8_0", scheme={r"blk\.1\.ffn_up": format}, learn_scales=True)
    name = UP_PROJ
    fake = fakes(model)[name]
    weight = originals(model)[name]
    module = model.model.layers[1].mlp.up_proj
    model.train()
    _ = module.weight  # the search
    with torch.no_grad():
        weight[::3] *= 1.8  # some beyond their range
        fake.gains[0].mul_(1.01)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    (module.weight * direction).sum().backward()

    grid = fake._grids[0]
    rows = weight.detach().double().reshape(weight.shape[0], -1, grid.sub_len)
    gains = fake.gains[0].detach().double()
    scale, table = grid.scale.double(), grid.table.double()
    offset = torch.zeros(()).double() if grid.offset is None else grid.offset.double()
    low = table[0] - (table[1] - table[0]) / 2
    high = table[-1] + (table[-1] - table[-2]) / 2
    values = module.weight.detach().double().reshape(rows.shape)
    x = (rows - offset) / torch.where(scale == 0, torch.inf, scale)
    shift = (values - offset) / torch.where(scale == 0, torch.inf, scale) - x.clamp(low, high)
    per_block = rows.numel() // gains.shape[0] // grid.sub_len

    def surrogate(first: float, second: float) -> torch.Tensor:
        s, o = scale * first, offset * second
        y = ((rows - o) / torch.where(s == 0, torch.inf, s)).clamp(low, high) + shift
        terms = (y * s + o) * direction.double().reshape(rows.shape)
        return terms.reshape(gains.shape[0], per_block * grid.sub_len).sum(dim=1)

    step = 1e-7
    block = per_block * grid.sub_len
    factor = 1 / (block * float(table.abs().max())) ** 0.5
    for column in range(gains.shape[1]):
        move = (step, 0.0) if column == 0 else (0.0, step)
        above, below = surrogate(1 + move[0], 1 + move[1]), surrogate(1 - move[0], 1 - move[1])
        slope = (above - below) / (2 * step) / gains[:, column] * factor
        found = fake.gains[0].grad[:, column].double()
        # Weights within `step` of an end of their range may fall on either side; the rest agrees to float32 sums.
        agree = ((slope - found).abs() <= 1e-4 * slope.abs() + 1e-4 * slope.abs().mean()).double().mean()
        assert agree > 0.99


def test_learned_scales_are_trained_saved_and_written(tmp_path: Path, tokenizer: Path) -> None:
    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = make("llama")
        qat.prepare(model, "Q2_K", learn_scales=True, clamp_gradient=True)
        return model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)

    names = set(make("llama").state_dict())
    assert set(build()[0].state_dict()) == names
    model, _ = resumes_bit_for_bit(build, steps=3, file=tmp_path / "state.pt")
    assert all(bool((gain != 1).any()) for gain in qat.scale_parameters(model))

    model.eval()
    model(tokens(1, 8))
    file = gg.open(qat.export_gguf(model, tokenizer, tmp_path / "out.gguf", pre="gpt-2"))
    written = torch.from_numpy(file.tensors["blk.1.ffn_up.weight"].dequantize())
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight.detach(), written)
    assert not gg.verify(tmp_path / "out.gguf")
    with torch.no_grad():
        qat.scale_parameters(model)[0].mul_(1.5)
    with pytest.raises(gg.UsageError, match="changed since"):
        qat.export_gguf(model, tokenizer, tmp_path / "out.gguf", pre="gpt-2", overwrite=True)
    qat.convert(model)
    assert set(model.state_dict()) == names


def test_wrong_use_of_learned_scales_is_refused() -> None:
    model = make("llama")
    with pytest.raises(gg.UsageError, match="call prepare first"):
        qat.scale_parameters(model)
    with pytest.raises(gg.UsageError, match="leave scale_refresh out"):
        qat.prepare(model, "Q2_K", learn_scales=True, scale_refresh=4)
    with pytest.raises(gg.UnsupportedError, match=r"ffn_up.*scales of MXFP4 cannot be learned"):
        qat.prepare(model, "Q2_K", learn_scales=True, scheme={"ffn_up": "MXFP4"})
    qat.prepare(model, "Q4_0")
    state = qat.quantized_state(model)
    other = make("llama")
    qat.prepare(other, "Q4_0", learn_scales=True)
    with pytest.raises(gg.UsageError, match="scales are learned in one"):
        qat.restore_quantized_state(other, state)

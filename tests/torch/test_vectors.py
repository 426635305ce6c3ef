"""Codebooks of vectors on kept scales: the torch arithmetic is the native search's, and starts are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ggquant as gg
from conftest import make, save, tokens
from ggquant import qat
from ggquant.layerwise.convert import quantize_by_gptq
from ggquant.layerwise.solve import LayerwiseOptions
from ggquant.qat import vectors

VECTORS = vectors._native.vector_formats()


def moved_rows(format: str, rows: int = 6) -> tuple[torch.Tensor, torch.Tensor, vectors.VectorGrid]:
    """Rows, values that others near them are encoded to, and the grid of those."""
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(rows, 512, generator=generator) * torch.logspace(-3, 1, rows)[:, None]
    base[3, :256] = 0
    importance = np.ones(512, np.float32)
    encoded = gg.quantize(base, format, imatrix=importance)
    values = torch.from_numpy(encoded.dequantize())
    grid = vectors.vector_grid(format, encoded.data.reshape(-1).copy(), 512, base.device)
    return base * (1 + 0.4 * torch.randn(base.shape, generator=generator)), values, grid


@pytest.mark.parametrize("format", VECTORS)
def test_torch_chooses_what_the_native_search_does(format: str) -> None:
    rows, values, grid = moved_rows(format)
    found = torch.empty_like(rows)
    grid.nearest(rows, found)
    by_torch = grid.values(grid.codes(rows))
    assert torch.equal(found.view(torch.int32), by_torch.view(torch.int32))
    decoded = gg.dequantize(grid.encoded(rows), format, tuple(rows.shape))
    assert np.array_equal(decoded.view(np.int32), found.numpy().view(np.int32))
    # What lies on the grid stays.
    assert torch.equal(grid.values(grid.codes(values)), values)
    assert bool(grid.keeps(values, values).all())
    # Weights that were moved have other codes here and there, not everywhere.
    assert 0.05 < float((found != values).float().mean()) < 0.95


@pytest.mark.parametrize("format", VECTORS)
def test_weights_drawn_into_cells_have_their_codes(format: str) -> None:
    rows, values, grid = moved_rows(format)
    scaled = (grid.scale != 0).expand(-1, -1, grid.sub_len).reshape(rows.shape)
    for margin in (0.02, 0.5):
        near = grid.drawn_in(rows, values, margin)
        assert bool(grid.keeps(near, values)[scaled].all())
        assert torch.equal(near[~scaled], rows[~scaled])
        # On the way, and on most of it where nothing hinders.
        assert bool(((near - values).abs() <= (rows - values).abs() * (1 + 1e-6) + 1e-7).all())
    near, middle = grid.drawn_in(rows, values, 0.02), grid.drawn_in(rows, values, 0.9)
    assert float((near - rows).square().sum()) < float((middle - rows).square().sum())
    # From the border a tenth of the way is left with a margin of 0.9: nine tenths further out is the border, or beyond.
    split = (rows.shape[0], -1, 8)
    beyond = values + 10.2 * (middle - values)
    shortened = ((middle - rows).reshape(split).abs() > 1e-6 * rows.reshape(split).abs()).any(dim=-1, keepdim=True)
    left = ~grid.keeps(beyond, values).reshape(split)[..., :1]
    moved = ((middle - values).reshape(split) != 0).any(dim=-1, keepdim=True)
    reached = (left | ~shortened)[moved]
    assert float(reached.float().mean()) > 0.95  # cells are not quite convex where a sign is turned
    assert torch.equal(grid.drawn_in(rows, values, 1.0)[scaled], values[scaled])


@pytest.mark.parametrize("format", ["IQ1_M", "IQ2_XS", "IQ3_S"])
def test_codes_follow_kept_scales_between_searches(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("llama")
    imatrix = {f"blk.{i}.ffn_up.weight": np.ones(256, np.float32) for i in range(2)}
    qat.prepare(model, "Q8_0", scheme={"ffn_up": format}, imatrix=imatrix, scale_refresh=3, clamp_gradient=True)
    searched: list[str] = []
    encode = vectors._native.encode
    monkeypatch.setattr(vectors._native, "encode", lambda name, *rest: searched.append(name) or encode(name, *rest))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.train()
    seen = []
    for step in range(5):
        model(tokens(1, 16, seed=step), labels=tokens(1, 16, seed=step)).loss.backward()
        weight = model.model.layers[1].mlp.up_proj.weight.detach().clone()
        seen.append(weight)
        optimizer.step()
        optimizer.zero_grad()
    assert searched.count(format) == 2 * 2  # both layers, at the first and the fourth of five updates
    assert not torch.equal(seen[1], seen[2])


@pytest.mark.parametrize("variant", ["IQ2_XS", "IQ3_XXS"])
def test_a_training_starts_at_the_codes_of_gptq(variant: str, tmp_path: Path) -> None:
    folder = save(make("llama"), tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text("One day the river rose, and nobody on the hill could say why. " * 60, encoding="utf-8")
    even = {t.name: np.ones(t.shape[-1]) for t in gg.plan(folder, "Q8_0", pre="gpt-2").tensors}
    file = tmp_path / "solved.gguf"
    fast = LayerwiseOptions.of("fast")
    quantize_by_gptq(folder, file, variant, method=fast, calibration=[text], context=64, chunks=4, pre="gpt-2")
    solved = gg.open(file)
    for margin in (1.0, 0.5):
        model = make("llama")
        qat.ptq_then_qat(model, file, variant, imatrix=even, margin=margin)
        again = exported(model, folder, tmp_path / f"again-{margin}.gguf")
        for name, tensor in solved.tensors.items():
            assert np.array_equal(tensor.dequantize(), again.tensors[name].dequantize()), name
    # And it goes on from there.
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(tokens(1, 16), labels=tokens(1, 16)).loss.backward()
    optimizer.step()
    trained = exported(model, folder, tmp_path / "trained.gguf")
    name = "blk.0.ffn_up.weight"
    assert not np.array_equal(trained.tensors[name].dequantize(), solved.tensors[name].dequantize())


def exported(model: torch.nn.Module, folder: Path, path: Path) -> gg.GGUFFile:
    """The file of an evaluation forward."""
    model.eval()
    with torch.no_grad():
        model(tokens(1, 16))
    qat.export_gguf(model, folder, path, pre="gpt-2")
    return gg.open(path)

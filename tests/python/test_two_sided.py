"""Rows whose errors make up for each other, by gradients of the model's predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ggquant as gg
from ggquant.layerwise import LayerwiseOptions, solve_model
from ggquant.layerwise.convert import quantize_by_gptq
from ggquant.layerwise.fisher import collect_fisher
from ggquant.layerwise.two_sided import solve_two_sided, two_sided_loss
from ggquant.methods.solver import FactoredHessian
from ggquant.runtime import open_model
from runtime_cases import RUNTIME_CASES
from tiny_checkpoints import write

MODEL = Path(__file__).parents[1] / "data" / "tinylm"
TOKENS = np.random.default_rng(3).integers(5, 4000, size=(3, 64))


def moment(size: int, seed: int) -> np.ndarray:
    """A second moment with eigenvalues over three decades."""
    random = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(random.standard_normal((size, size)))
    return np.asarray(basis * np.logspace(0, -3, size) @ basis.T)


@pytest.mark.parametrize("format", ["Q4_K", "Q3_K", "Q4_0", "IQ3_S"])
def test_coupled_rows_are_better_on_the_coupled_objective(format: str) -> None:
    w = np.random.default_rng(1).standard_normal((128, 256)).astype(np.float32)
    hessian, gram = moment(256, 2).astype(np.float32), moment(128, 3)
    factored = FactoredHessian(hessian, damp=0.01, effort="fast")
    single = w - factored.solve(w, format).tensor.dequantize()
    tensor, error = solve_two_sided(factored, w, gram, format, damp=0.01)
    np.testing.assert_array_equal(error, w - tensor.dequantize())
    again, better = solve_two_sided(factored, w, gram, format, damp=0.01, sweeps=2, threads=1)
    losses = [two_sided_loss(e, gram, hessian, 0.01) for e in (single, error, better)]
    assert losses[1] < 0.9 * losses[0]
    assert losses[2] <= losses[1]
    assert again.shape == tensor.shape


def test_gradients_of_sampled_labels_average_out_to_nothing_and_are_reproducible() -> None:
    model = open_model(MODEL)
    names = {"blk.0.attn_q.weight", "blk.1.ffn_down.weight", "output.weight", "token_embd.weight"}
    found = collect_fisher(model, TOKENS, names, 5)
    assert found.keys() == names
    assert not found["output.weight"].parts
    for name in names - {"output.weight"}:
        (part,) = found[name].parts
        np.testing.assert_allclose(part, part.T)
        assert np.linalg.eigvalsh(part).min() > -1e-6 * np.trace(part)
    assert all(abs(one.weights.mean() - 1) < 1e-4 and one.weights.shape == TOKENS.shape for one in found.values())
    other = collect_fisher(model, TOKENS, names, 6)
    again = collect_fisher(model, TOKENS, names, 5)
    for name in names:
        assert np.array_equal(found[name].weights, again[name].weights)
        assert not np.array_equal(found[name].weights, other[name].weights)


def test_best_solves_rows_together_whatever_the_number_of_threads() -> None:
    model = open_model(MODEL)
    formats = {"token_embd.weight": "Q3_K", "blk.0.attn_q.weight": "Q3_K", "blk.0.attn_output.weight": "Q3_K"}
    options = replace(LayerwiseOptions.of("best"), effort="fast")
    made = list(solve_model(model, TOKENS, formats, replace(options, threads=1)))
    again = list(solve_model(model, TOKENS, formats, replace(options, threads=2)))
    assert all(a.tensor == b.tensor for a, b in zip(made, again, strict=True))
    assert all(one.report.solved < one.report.weighted for one in made)
    alone = {one.name: one for one in solve_model(model, TOKENS, formats, replace(options, fisher=False))}
    assert any(one.tensor != alone[one.name].tensor for one in made)


def test_best_is_refused_where_there_are_no_gradients(tmp_path: Path) -> None:
    case = RUNTIME_CASES["mixtral"]
    source = write(case, tmp_path / "model")
    with pytest.raises(gg.UnsupportedError, match="experts have no way back yet; use --effort normal"):
        quantize_by_gptq(source, tmp_path / "out.gguf", "Q4_K_M", method=LayerwiseOptions.of("best"), pre=case.pre)

"""The GPTQ solver: never worse than weighted rounding, what it says of itself, and the textbook algorithm."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import ggquant as gg
from ggquant.methods import FactoredHessian, GPTQResult, gptq_groups, solver_formats

FORMATS = solver_formats()


def gptq(w: np.ndarray, hessian: np.ndarray, format: str, **options: Any) -> GPTQResult:
    """`gg.gptq`, with what it says of itself."""
    solving = {key: options.pop(key) for key in ("importance", "threads") if key in options}
    return FactoredHessian(hessian, **options).solve(w, format, **solving)


def problem(rows: int, columns: int, condition: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian weights, and a Hessian with eigenvalues spread evenly on a logarithmic scale."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((columns, columns)))
    values = np.logspace(0, -np.log10(condition), columns)
    hessian = (basis * values) @ basis.T
    return rng.standard_normal((rows, columns)).astype(np.float32), hessian.astype(np.float32)


def losses(w: np.ndarray, tensor: gg.QuantizedTensor, hessian: np.ndarray, damp: float) -> np.ndarray:
    """`e^T H e` of each row, in double precision."""
    error = w.astype(np.float64) - tensor.dequantize()
    damped = hessian.astype(np.float64) + damp * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
    return np.einsum("rk,kl,rl->r", error, damped, error)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_solution_beats_weighted_rounding_on_every_tensor(format: str, condition: float) -> None:
    w, hessian = problem(6, 512, condition, seed=len(format))
    result = gptq(w, hessian, format, damp=1e-4)
    rounded = gg.quantize(w, format, imatrix=np.diag(hessian).copy())
    before, after = losses(w, rounded, hessian, result.damp), losses(w, result.tensor, hessian, result.damp)
    # The gain is large; rounding of sums in float32 is not, so "no row is worse" is held with a margin of 1e-3.
    assert after.sum() < 0.9 * before.sum()
    assert (after <= before * 1.001).all()
    # What the solver says of itself, which it sums in float32 through a factor of a condition of 1e3 at most.
    np.testing.assert_allclose(result.solved, after, rtol=2e-3)
    assert not np.isnan(result.tensor.dequantize()).any()


@pytest.mark.parametrize("effort", ["fast", "best"])
def test_more_effort_is_not_worse(effort: str) -> None:
    w, hessian = problem(8, 512, 1e4, seed=3)
    ordered = [gptq(w, hessian, "Q3_K", effort=e).solved.sum() for e in ("fast", "normal", "best")]
    assert ordered[0] > ordered[1] > ordered[2], effort


@pytest.mark.parametrize("format", ["Q4_0", "Q4_K", "IQ4_XS", "IQ2_S", "IQ3_XXS"])
def test_bytes_do_not_depend_on_threads_or_neighbours(format: str) -> None:
    w, hessian = problem(70, 256, 1e3, seed=5)
    one = gg.gptq(w, hessian, format, threads=1)
    assert gptq(w, hessian, format, threads=3).tensor == one
    assert gptq(w[37:38], hessian, format).tensor == one[37:38]


def test_bytes_do_not_depend_on_the_instruction_set() -> None:
    code = (
        "import hashlib, numpy as np, ggquant.methods as m\n"
        "rng = np.random.default_rng(1); x = rng.standard_normal((700, 256)).astype(np.float32)\n"
        "w = rng.standard_normal((9, 256)).astype(np.float32)\n"
        "made = [m.gptq(w, x.T @ x, f).data.tobytes() for f in m.solver_formats()]\n"
        "print(hashlib.sha256(b''.join(made)).hexdigest())"
    )

    def digest(isa: str) -> str:
        env = {**os.environ, "GGQUANT_ISA": isa}
        return subprocess.run(
            [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert digest("scalar") == digest(gg.isa())


@pytest.mark.parametrize("columns", [32, 96, 288, 320])
def test_rows_that_are_no_whole_windows(columns: int) -> None:
    w, hessian = problem(5, columns, 1e3, seed=columns)
    result = gptq(w, hessian, "Q4_0")
    assert result.tensor.shape == w.shape
    assert result.gain < 0.95


def test_dead_columns_keep_their_weights_and_disturb_nothing() -> None:
    w, hessian = problem(4, 256, 1e3, seed=11)
    hessian[[3, 200]] = 0
    hessian[:, [3, 200]] = 0
    result = gptq(w, hessian, "Q8_0")
    assert result.dead == 2
    # Inputs that calibration never saw: their weights are rounded like any others, to half a step of Q8_0.
    step = np.abs(w).reshape(4, 8, 32).max(axis=2) / 127
    error = np.abs(w - result.tensor.dequantize()).reshape(4, 8, 32)
    assert (error[:, [0, 6], [3, 8]] <= step[:, [0, 6]] * 1.01).all()


def test_all_columns_dead_is_plain_rounding_of_every_column() -> None:
    w, _ = problem(3, 256, 1e2, seed=1)
    result = gptq(w, np.zeros((256, 256), np.float32), "Q4_K", damp=0.0)
    assert result.dead == 256
    assert np.isfinite(result.tensor.dequantize()).all()


def test_damping_grows_until_the_matrix_is_positive_definite() -> None:
    rng = np.random.default_rng(2)
    few = rng.standard_normal((20, 256)).astype(np.float32)  # rank 20 of 256
    w = rng.standard_normal((4, 256)).astype(np.float32)
    result = gptq(w, few.T @ few, "Q4_K", damp=0.0)
    assert 0 < result.damp < 1e-2
    assert result.gain < 0.5
    indefinite = np.diag(np.linspace(1, 2, 256)).astype(np.float32)
    indefinite[0, 1] = indefinite[1, 0] = 1.6
    assert gptq(w, indefinite, "Q4_K", damp=0.01).damp > 0.05


def test_what_cannot_be_solved_is_refused_by_name() -> None:
    w, hessian = problem(2, 256, 1e2, seed=7)
    broken = hessian.copy()
    broken[4, 9] = np.nan
    with pytest.raises(gg.UnsupportedError, match="row 4, column 9"):
        gptq(w, broken, "Q4_K")
    broken = hessian.copy()
    broken[5, 5] = -1
    with pytest.raises(gg.UnsupportedError, match="column 5"):
        gptq(w, broken, "Q4_K")
    bad = w.copy()
    bad[1, 2] = np.inf
    with pytest.raises(gg.NonFiniteError, match="row 1, column 2"):
        gptq(bad, hessian, "Q4_K")
    with pytest.raises(gg.ShapeError, match="columns"):
        gptq(w[:, :128], hessian, "Q4_0")
    with pytest.raises(gg.ShapeError, match="blocks of 256"):
        gptq(w[:, :128], hessian[:128, :128], "Q4_K")
    with pytest.raises(gg.UnsupportedError, match="no GPTQ solver for TQ2_0"):
        gptq(w, hessian, "TQ2_0")
    with pytest.raises(gg.ShapeError, match="Hessian"):
        FactoredHessian(hessian[:5])
    with pytest.raises(gg.UsageError, match="effort"):
        gptq(w, hessian, "Q4_K", effort="heroic")
    with pytest.raises(gg.UnsupportedError, match="damping"):
        gptq(w, hessian, "Q4_K", damp=-1.0)


def test_importance_changes_where_scales_start_and_not_the_objective() -> None:
    w, hessian = problem(4, 256, 1e3, seed=9)
    given = np.linspace(0.1, 2.0, 256)
    result = gptq(w, hessian, "Q3_K", importance=given, effort="fast")
    np.testing.assert_allclose(result.rounded, gptq(w, hessian, "Q3_K", effort="fast").rounded)
    with pytest.raises(gg.ImatrixError, match="above 0"):
        gptq(w, hessian, "Q3_K", importance=-given)


def textbook(
    w: np.ndarray, hessian: np.ndarray, bits: int, size: int, *, sym: bool, act_order: bool, damp: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Algorithm 1 of the paper, column by column, with the inverse Hessian itself."""
    columns = w.shape[1]
    order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(columns)
    h = hessian[np.ix_(order, order)].copy()
    work = w[:, order].astype(np.float64)
    work[:, np.diag(h) == 0] = 0
    h[np.diag_indices(columns)] += (np.diag(h) == 0) * 1.0
    h[np.diag_indices(columns)] += damp * np.diag(h).mean()
    inverse = np.linalg.inv(h)
    factor = np.linalg.cholesky(inverse).T
    top = 2**bits - 1
    codes = np.zeros(w.shape, np.int64)
    scales, zeros = [], []
    for i in range(columns):
        if i % size == 0:
            low = np.minimum(work[:, i : i + size].min(axis=1), 0)
            high = np.maximum(work[:, i : i + size].max(axis=1), 0)
            if sym:
                high = np.maximum(high, -low)
                low = -high
            scale = ((high - low) / top).astype(np.float32).astype(np.float64)
            zero = np.full(len(w), (top + 1) / 2) if sym else np.round(-low / ((high - low) / top))
            scales.append(scale)
            zeros.append(zero)
        q = np.clip(np.round(work[:, i] / scale) + zero, 0, top)
        codes[:, order[i]] = q
        error = (work[:, i] - scale * (q - zero)) / factor[i, i]
        work[:, i + 1 :] -= np.outer(error, factor[i, i + 1 :])
    return codes, np.stack(scales, axis=1), np.stack(zeros, axis=1)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
def test_groups_are_those_of_the_textbook(bits: int, sym: bool, act_order: bool) -> None:
    rng = np.random.default_rng(bits)
    x = rng.standard_normal((600, 160)) * np.linspace(0.2, 2, 160) + 0.5 * rng.standard_normal((600, 1))
    hessian = x.T @ x
    hessian[7] = hessian[:, 7] = 0
    w = rng.standard_normal((12, 160)).astype(np.float32)
    made = gptq_groups(w, hessian, bits, 64, sym=sym, act_order=act_order, damp=0.01)
    codes, scales, zeros = textbook(w, hessian, bits, 64, sym=sym, act_order=act_order, damp=0.01)
    np.testing.assert_array_equal(made.codes, codes)
    np.testing.assert_array_equal(made.zeros, zeros)
    np.testing.assert_allclose(made.scales, scales, rtol=1e-6)
    groups = np.empty(160, np.int32)
    groups[np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(160)] = np.arange(160) // 64
    np.testing.assert_array_equal(made.group_of, groups)
    again = made.scales[:, groups] * (made.codes - zeros[:, groups])
    np.testing.assert_allclose(made.dequantize(), again, rtol=1e-6)


def test_groups_refuse_what_cannot_be() -> None:
    w, hessian = problem(2, 64, 1e2, seed=1)
    with pytest.raises(gg.UsageError, match="bits"):
        gptq_groups(w, hessian, 1, 32)
    with pytest.raises(gg.UnsupportedError, match="positive definite"):
        gptq_groups(w, -hessian, 4, 32)
    with pytest.raises(gg.NonFiniteError, match="row 0, column 0"):
        gptq_groups(np.full((1, 64), np.nan, np.float32), hessian, 4, 32)
    assert gptq_groups(w, hessian, 4, -1).scales.shape == (2, 1)

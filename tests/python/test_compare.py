"""`compare` and `sensitivity` against numpy, and against each other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import ggquant as gg
from ggquant.cli import COMMANDS, command_line
from ggquant.evaluation import rows
from ggquant.model import SourceTensor, View
from ggquant.sources import load_model

DATA = Path(__file__).parents[1] / "data"
TINYLM, TEXT = DATA / "tinylm", DATA / "evaluation" / "text.txt"


def run(*words: object) -> Any:
    return CliRunner().invoke(command_line(COMMANDS), list(map(str, words)))


@pytest.fixture(scope="module")
def q2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gg.convert(TINYLM, tmp_path_factory.mktemp("q2") / "q2.gguf", "Q2_K").path


def test_errors_are_those_of_the_definition(q2: Path) -> None:
    rng = np.random.default_rng(1)
    whole = gg.compare(TINYLM, q2)
    original = gg.convert(TINYLM, q2.with_name("f32.gguf"), "F32", overwrite=True).path
    a, b = gg.open(original).tensors, gg.open(q2).tensors
    matrix = {n: rng.random(t.shape[-1], np.float32) for n, t in a.items() if len(t.shape) == 2}
    made = gg.compare(original, q2, imatrix=matrix)
    assert [t.name for t in made.tensors] == list(a)
    assert not (made.only_in_a or made.only_in_b or made.differing_shapes)
    in_checkpoint = {t.name: t.rmse for t in whole.tensors}
    assert set(in_checkpoint) == set(a)
    for t in made.tensors:
        x, y = (f[t.name].dequantize().astype(np.float64) for f in (a, b))
        d = x - y
        # Sums of squares in float64, in two orders.
        near = {"rel": 1e-9, "abs": 1e-12}
        assert t.formats == ("F32", b[t.name].format)
        assert t.weights == x.size
        assert t.rmse == pytest.approx(np.sqrt((d * d).mean()), **near)
        assert in_checkpoint[t.name] == pytest.approx(t.rmse, **near)
        assert t.relative_error == pytest.approx(np.linalg.norm(d) / np.linalg.norm(x), **near)
        assert t.cosine == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y), **near)
        assert t.max_error == np.abs(d).max()
        if t.name in matrix:
            w = matrix[t.name].astype(np.float64)
            assert t.weighted_error == pytest.approx(np.sqrt((w * d * d).sum() / (w * x * x).sum()), **near)
        else:
            assert t.weighted_error is None


def test_a_file_and_itself(q2: Path) -> None:
    for t in gg.compare(q2, q2).tensors:
        assert (t.rmse, t.relative_error, t.max_error) == (0, 0, 0)
        assert t.cosine == pytest.approx(1)


def test_pieces_change_nothing(q2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gg.compare(TINYLM, q2, threads=1)
    monkeypatch.setattr(rows, "_WEIGHTS", 10_000)
    for t, part in zip(whole.tensors, gg.compare(TINYLM, q2, threads=3).tensors, strict=True):
        assert part.rmse == pytest.approx(t.rmse, rel=1e-12)
        assert part.max_error == t.max_error


@pytest.mark.parametrize("limit", [64, 1000, 1 << 22])
def test_rows_of_any_views_come_in_order(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_WEIGHTS", limit)
    data = np.arange(2 * 6 * 4 * 8, dtype=np.float32)
    (tmp_path / "w").write_bytes(data.tobytes())
    file = str(tmp_path / "w")
    stacked = [View(file, 0, "F32", (1, 24, 8), (192, 8, 1), 192 * i) for i in (1, 0)]
    permuted = View(file, 0, "F32", (6, 2, 4, 8), (8, 192, 48, 1))
    cases = [
        (SourceTensor("experts", (2, 24, 8), "F32", tuple(stacked)), data.reshape(2, 192)[::-1].reshape(-1, 8)),
        (
            SourceTensor("heads", (48, 8), "F32", (permuted,)),
            np.lib.stride_tricks.as_strided(data, permuted.shape, [4 * s for s in permuted.strides]).reshape(-1, 8),
        ),
        (SourceTensor("inline", (24, 8), "F32", inline=data[:192].tobytes()), data[:192].reshape(-1, 8)),
    ]
    for tensor, expected in cases:
        np.testing.assert_array_equal(np.concatenate(list(rows.row_chunks(tensor))), expected)


def test_the_command(q2: Path, tmp_path: Path) -> None:
    facts = json.loads(run("compare", TINYLM, q2, "--json", "--imatrix", DATA / "convert" / "imatrix.gguf").stdout)
    errors = [t["relative_error"] for t in facts["tensors"]]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.1
    assert {"name", "from", "to", "bits_per_weight", "rmse", "cosine", "max_error", "weighted_error"} <= set(
        facts["tensors"][0]
    )
    shown = run("compare", TINYLM, q2, "--quiet", "--top", 3, "--sort", "rmse").stdout
    assert shown.count("█" * 10) >= 1 and facts["tensors"][0]["to"] in shown
    assert run("compare", TINYLM, q2, "--sort", "size").exit_code == 2


def test_different_models(q2: Path, tmp_path: Path) -> None:
    with gg.GGUFWriter(tmp_path / "m.gguf", {"general.architecture": "llama"}) as writer:
        writer.add("other", np.ones((2, 32), np.float32))
    with pytest.raises(gg.CheckpointError, match="different models"):
        gg.compare(q2, tmp_path / "m.gguf")
    with gg.GGUFWriter(tmp_path / "n.gguf", {"general.architecture": "llama"}) as writer:
        writer.add("output_norm.weight", np.ones(7, np.float32))
        writer.add("token_embd.weight", gg.open(q2).tensors["token_embd.weight"].quantized())
    made = gg.compare(q2, tmp_path / "n.gguf")
    assert [t.name for t in made.tensors] == ["token_embd.weight"]
    assert list(made.differing_shapes) == ["output_norm.weight"]
    assert len(made.only_in_a) == len(load_model(q2).tensors) - 2


def test_sensitivity_is_what_evaluation_says_of_one_changed_tensor(tmp_path: Path) -> None:
    names = ["token_embd.weight", "blk.1.ffn_down.weight", "blk.5.attn_v.weight"]
    made = gg.sensitivity(TINYLM, TEXT, formats=["Q2_K"], tensors=names, context=32, chunks=2)
    assert [t.name for t in made.tensors] == names
    plain = gg.open(gg.convert(TINYLM, tmp_path / "f32.gguf", "F32").path)
    for t in made.tensors:
        path = tmp_path / f"{t.name}.gguf"
        with gg.GGUFWriter(path, plain.metadata) as writer:
            for name, tensor in plain.tensors.items():
                values = tensor.dequantize()
                writer.add(name, gg.quantize(values, "Q2_K") if name == t.name else values)
        alone = gg.evaluate(path, TEXT, reference=TINYLM, context=32, chunks=2)
        # Means of two chunks, taken in two orders.
        assert t.formats["Q2_K"].kld == pytest.approx(alone.kld_mean, rel=1e-4)
        assert t.formats["Q2_K"].output_error > 0.01


def test_finer_formats_cost_less_and_take_more(tmp_path: Path) -> None:
    words = ["sensitivity", TINYLM, TEXT, "-c", 32, "--chunks", 1, "--formats", "Q2_K,Q4_K,Q8_0", "--layer-output"]
    result = run(*words, "--tensors", r"blk\.0\.", "-o", tmp_path / "s.json", "--quiet")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "s.json").read_text("utf-8"))
    assert len(content["tensors"]) == 7
    for t in content["tensors"]:
        costs = list(t["formats"].values())
        assert list(t["formats"]) == ["Q2_K", "Q4_K", "Q8_0"]
        assert costs[0]["output_error"] > costs[1]["output_error"] > costs[2]["output_error"] > 0
        assert costs[0]["nbytes"] < costs[1]["nbytes"] < costs[2]["nbytes"]
        assert all(cost["kld"] is None for cost in costs)
    assert run(*words, "-o", tmp_path / "s.json").exit_code == 1
    assert run(*words, "--tensors", "nothing_like_it").exit_code == 2

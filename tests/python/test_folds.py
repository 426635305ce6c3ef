"""Scales taken up by what makes the columns' input: the same network in every family, or a reason why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ggquant as gg
import runtime_cases
from ggquant.architectures import graph
from ggquant.layerwise import LayerwiseOptions
from ggquant.layerwise.awq import fold_scales
from ggquant.layerwise.folds import Place, places
from ggquant.layerwise.report import FoldReport
from ggquant.layerwise.scaled import Scales, check_same, scaled_model
from ggquant.layerwise.work import WorkFile
from ggquant.runtime import RunnableModel, open_model
from tiny_checkpoints import write

MODEL = Path(__file__).parents[1] / "data" / "tinylm"


class Stored:
    """Weights that are not looked at, and small tensors in float32."""

    def rounding(self, name: str) -> None:
        return None

    def judge(self, weights: object, hessian: object) -> None:
        return None

    def stored(self, name: str, values: np.ndarray) -> np.ndarray:
        return values


def opened(name: str, tmp_path: Path) -> RunnableModel:
    case = runtime_cases.RUNTIME_CASES[name]
    return open_model(write(case, tmp_path), pre=case.pre)


def folded(model: RunnableModel, where: Callable[[Place], bool] = lambda _: True) -> tuple[RunnableModel, list[Place]]:
    """The model with random scales wherever there can be some, and the places."""
    plain = {t.name for t in model.source.tensors if len(t.shape) == 1 or t.name.endswith((".bias", "_inp.weight"))}
    matrices = {t.name for t in model.source.tensors} - plain
    found = places(model, matrices, plain)
    rng = np.random.default_rng(5)
    made = []
    for place in found:
        if not place.reason and where(place):
            shape = (place.experts, place.channels) if place.experts else (place.channels,)
            scales = np.exp2(rng.uniform(-2, 2, shape)).astype(np.float32)
            made.append(Scales(place, scales, FoldReport(place.readers, place.maker, None, 0.0, 0.0, "")))
    return scaled_model(model, made, Stored()), found


#: Families, the roles whose columns can be scaled, and parts of the reasons why others' cannot.
ATTENTION, GATED = {"attn_q", "attn_k", "attn_v", "attn_output"}, {"ffn_gate", "ffn_up", "ffn_down"}
EXPERTS = {"ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"}
CASES = {
    "llama": (ATTENTION | GATED, {"token embedding"}),
    "qwen2": (ATTENTION | GATED, {"token embedding"}),
    "qwen3moe_fused": (ATTENTION | EXPERTS | {"output"}, set()),
    "mixtral": (ATTENTION | EXPERTS | {"output"}, set()),
    "gemma2": (ATTENTION | GATED, {"token embedding"}),
    "phi3_plain": ({"attn_qkv", "attn_output", "ffn_up", "ffn_down", "output"}, set()),
    "gpt2": ({"attn_qkv", "attn_output", "ffn_up"}, {"gelu_tanh without a gate", "token embedding"}),
    "starcoder2": (ATTENTION | {"ffn_up"}, {"gelu_tanh without a gate", "token embedding"}),
    "olmo2": ({"attn_output", "ffn_down", "output"}, {"residual stream"}),
    "granite": (ATTENTION | GATED, {"token embedding"}),
    "gpt_oss": (ATTENTION | EXPERTS - {"ffn_down_exps"} | {"output"}, {"swiglu_oai"}),
    "bert": ({"attn_output"}, {"residual stream", "gelu without a gate"}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_network_stays_the_same(name: str, tmp_path: Path) -> None:
    model = opened(name, tmp_path)
    scaled, found = folded(model)
    tokens = runtime_cases.tokens(name)
    check_same(model, scaled, tokens)
    possible = {reader.split(".")[-2] for place in found if not place.reason for reader in place.readers}
    assert possible == CASES[name][0]
    reasons = {place.reason for place in found if place.reason}
    assert all(any(part in reason for reason in reasons) for part in CASES[name][1]), reasons
    assert bool(reasons) == bool(CASES[name][1])
    changed = [t.name for t in scaled.source.tensors if t != model.tensor(t.name)]
    assert {reader for place in found if not place.reason for reader in place.readers} <= set(changed)


def test_a_declaration_that_changes_the_network_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(graph.PASSED, "gelu_tanh", (True, True))
    model = opened("gpt2", tmp_path)
    scaled, _ = folded(model, lambda place: place.readers[0].endswith("ffn_down.weight"))
    with pytest.raises(gg.Error, match="'gpt2' declares a fold that changes the network"):
        check_same(model, scaled, runtime_cases.tokens("gpt2"))


def test_what_keeps_its_stored_values_takes_no_part(tmp_path: Path) -> None:
    model = opened("llama", tmp_path)
    matrices = {t.name for t in model.source.tensors if len(t.shape) == 2}
    norms = {t.name for t in model.source.tensors} - matrices
    kept = "blk.0.attn_v.weight"
    reasons = {place.readers: place.reason for place in places(model, matrices - {kept}, norms) if place.layer == 0}
    assert (
        reasons[("blk.0.attn_q.weight", "blk.0.attn_k.weight", kept)]
        == f"{kept} shares the input and keeps its stored values"
    )
    assert reasons[("blk.0.attn_output.weight",)] == f"{kept} keeps its stored values"
    without = {place.readers[0]: place.reason for place in places(model, matrices, norms - {"blk.0.ffn_norm.weight"})}
    assert without["blk.0.ffn_gate.weight"] == "blk.0.ffn_norm.weight keeps its stored values"


@pytest.mark.parametrize("name", ["qwen3moe", "gpt2"])
def test_scales_are_found_kept_and_taken_up_again(name: str, tmp_path: Path) -> None:
    model = opened(name, tmp_path / "model")
    tokens = runtime_cases.tokens(name)
    formats = {
        t.name: "Q4_0"
        for t in model.source.tensors
        if len(t.shape) > 1 and t.name.startswith("blk.") and not t.name.endswith(("_inp.weight", ".bias"))
    }
    others = {t.name for t in model.source.tensors} - set(formats)
    options = replace(LayerwiseOptions.of("fast"), awq=True)
    asked: list[str] = []

    def made(work: WorkFile) -> tuple[RunnableModel, list[FoldReport]]:
        asked.clear()
        result = fold_scales(model, tokens, formats, others, options, work, lambda _layer, what: asked.append(what))
        assert {one.name for one in result.stored} <= others
        return result.model, result.reports

    work = WorkFile(tmp_path / "out.gguf", "00ff" * 16, resume=True)
    scaled, reports = made(work)
    assert all(report.after <= report.before for report in reports)
    assert any(report.after < report.before for report in reports)
    again, same = made(WorkFile(tmp_path / "out.gguf", "00ff" * 16, resume=True))
    assert same == reports and again.source.tensors == scaled.source.tensors
    assert [t for t in scaled.source.tensors if t != model.tensor(t.name)]


def test_a_model_with_scales_becomes_an_ordinary_file(tmp_path: Path) -> None:
    from ggquant.layerwise.convert import quantize_by_gptq

    before = opened("mixtral", tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text("The calibration text of this test is short, and says little. " * 40, "utf-8")
    out = tmp_path / "scaled.gguf"
    how = replace(LayerwiseOptions.of("normal"), awq=True, gptq=False)
    pre = runtime_cases.RUNTIME_CASES["mixtral"].pre
    report = quantize_by_gptq(before.path, out, "Q8_0", method=how, calibration=[text], context=64, chunks=3, pre=pre)
    assert len(report.folds) == 9 and not gg.verify(out)
    assert all(one.solved <= one.weighted for one in report.tensors)
    norms = {fold.maker for fold in report.folds if fold.exponents and fold.maker.endswith("norm.weight")}
    file = gg.open(out)
    assert norms
    for name in norms:
        assert not np.array_equal(file.tensors[name].dequantize(), np.asarray(before.weight(name), np.float32))
    model = open_model(out)
    tokens = runtime_cases.tokens("mixtral")
    a, b = (m.logits(m.forward(tokens)) for m in (model, before))
    assert np.median(np.abs(a - b).max(axis=-1)) < 0.05 * np.abs(b).max()

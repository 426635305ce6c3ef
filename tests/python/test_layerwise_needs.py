"""What solving takes, told before it begins, and how far it is, told while it goes on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import ggquant as gg
from ggquant.layerwise import LayerwiseOptions
from ggquant.layerwise.convert import quantize_by_gptq
from ggquant.layerwise.cost import solving_cost
from ggquant.layerwise.needs import Needs, memory_needs
from ggquant.layerwise.options import Method
from ggquant.layerwise.watch import LayerwiseProgress
from ggquant.methods.solver import Effort
from ggquant.runtime import open_model
from runtime_cases import RUNTIME_CASES
from tiny_checkpoints import write

MODEL = Path(__file__).parents[1] / "data" / "tinylm"


def test_needs_grow_with_the_text_and_with_gradients() -> None:
    model = open_model(MODEL)
    formats = {t.name: "Q4_K" for t in model.source.tensors if len(t.shape) == 2}
    normal, best = LayerwiseOptions.of("normal"), LayerwiseOptions.of("best")
    small = memory_needs(model, 8, 512, formats, normal)
    large = memory_needs(model, 80, 512, formats, normal)
    # Two sets of hidden states, and the inputs of a layer's weights, for 72 chunks more.
    assert large - small >= 2 * 72 * 512 * model.hidden_size * 4
    gradients = memory_needs(model, 8, 512, formats, best) - small
    rows = [t.shape[0] for t in model.source.tensors if len(t.shape) == 2 and t.name.startswith("blk.")]
    assert gradients >= 8 * sum(n * n for n in rows)


def test_too_little_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggquant.layerwise.needs.free_bytes", lambda: 1_000_000_000)
    needs = Needs(8, 512, memory_bytes=900_000_000, disk_bytes=0, hessian_bytes=0, seconds=1.0)
    needs.check("model", Path())
    with pytest.raises(gg.UsageError, match=r"about 3.0 GB of memory, and 1.0 GB are free; use fewer --chunks"):
        replace(needs, memory_bytes=3_000_000_000).check("model", Path())


def test_too_little_room_on_the_disk_is_refused(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    needs = Needs(8, 512, memory_bytes=0, disk_bytes=free // 2, hessian_bytes=0, seconds=1.0)
    needs.check("model", tmp_path)
    with pytest.raises(gg.UsageError, match=r"take .* GB of disk space, and .* GB are free"):
        replace(needs, disk_bytes=2 * free + 10**9).check("model", tmp_path)
    # The folder of an output need not be there yet.
    needs.check("model", tmp_path / "a" / "b")
    with pytest.raises(gg.UsageError, match=r"take .* GB of disk space, and .* GB are free"):
        replace(needs, disk_bytes=2 * free + 10**9).check("model", tmp_path / "a" / "b")


def test_work_grows_with_text_effort_and_formats_and_not_with_what_is_done() -> None:
    model = open_model(MODEL)
    formats = {t.name: "Q4_K" for t in model.source.tensors if len(t.shape) == 2}
    fast, normal, best = (LayerwiseOptions.of(effort) for effort in ("fast", "normal", "best"))

    def work(options: LayerwiseOptions, n_tokens: int = 4096, formats: dict[str, str] = formats) -> float:
        return solving_cost(model, n_tokens, formats, options).total

    assert work(fast) < work(normal) < work(best)
    assert work(normal) < work(normal, 8192) < 2 * work(normal)
    assert work(normal) < work(normal, formats=dict.fromkeys(formats, "IQ2_XS"))
    assert work(normal) < work(LayerwiseOptions.of("normal", "awq+gptq"))
    whole = solving_cost(model, 4096, formats, normal)
    assert whole.weights.keys() == formats.keys()
    part = solving_cost(model, 4096, formats, normal, done=list(formats)[:5])
    assert part.weights.keys() == set(list(formats)[5:]) and part.layers == whole.layers
    stored = solving_cost(model, 4096, formats, fast, stored=True)
    assert stored.total < whole.total and not any(stored.layers) and stored.hessians == 0
    assert solving_cost(model, 4096, formats, fast, stored=True, collects=True).hessians > 0


@pytest.mark.parametrize(("method", "effort"), [("gptq", "fast"), ("gptq", "best"), ("awq+gptq", "normal")])
def test_what_is_told_goes_from_nothing_to_nearly_all(method: Method, effort: Effort, tmp_path: Path) -> None:
    case = RUNTIME_CASES["llama"]
    text = tmp_path / "text.txt"
    text.write_text("The calibration text of this test is short, and says little. " * 40, "utf-8")
    seen: list[LayerwiseProgress] = []
    needs: list[Needs] = []
    report = quantize_by_gptq(
        write(case, tmp_path / "model"), tmp_path / "out.gguf", "Q4_0", method=LayerwiseOptions.of(effort, method),
        calibration=[text], context=64, chunks=3, pre=case.pre, starting=needs.append, solving=seen.append,
    )  # fmt: skip
    assert len(needs) == 1 and needs[0].chunks == 3 and needs[0].context == 64 and needs[0].seconds > 0
    assert needs[0].disk_bytes > report.conversion.total_bytes // 2
    shares = [at.share for at in seen]
    # Nothing but the last weight and its layer is left when the last weight is next.
    assert shares == sorted(shares) and shares[0] <= 0.5 < shares[-1] <= 1
    assert all(at.left > 0 for at in seen)
    assert seen[-1].done == seen[-1].total - 1 == len(report.tensors) - 1
    assert seen[-1].before is not None and seen[-1].after is not None and seen[-1].after <= seen[-1].before

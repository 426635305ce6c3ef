"""The pass over the layers of the bundled model, and the file that comes of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ggquant as gg
from ggquant.layerwise import LayerwiseOptions, solve_model
from ggquant.layerwise.awq import fold_scales
from ggquant.layerwise.convert import quantize_by_gptq
from ggquant.layerwise.moments import Moments
from ggquant.layerwise.options import Method
from ggquant.layerwise.work import WorkFile
from ggquant.methods.solver import Effort
from ggquant.runtime import open_model
from ggquant.runtime.weights import as_float32, read_tensor
from runtime_cases import RUNTIME_CASES
from tiny_checkpoints import write

MODEL = Path(__file__).parents[1] / "data" / "tinylm"
TOKENS = np.random.default_rng(1).integers(5, 4000, size=(4, 96))
NAMES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
FORMATS = {f"blk.0.{name}.weight": "Q3_K" for name in NAMES}


def solved(options: LayerwiseOptions, formats: dict[str, str] = FORMATS) -> dict[str, gg.QuantizedTensor]:
    model = open_model(MODEL)
    made = list(solve_model(model, TOKENS, formats, options))
    assert all(one.report.solved <= one.report.weighted for one in made)
    return {one.name: one.tensor for one in made}


def after_first_layer(weights: dict[str, gg.QuantizedTensor]) -> np.ndarray:
    model = open_model(MODEL)
    return model.block(0, {name: w.dequantize() for name, w in weights.items()})(model.embed(TOKENS))


def test_solved_layers_are_closer_than_rounded_ones_and_corrections_help() -> None:
    model = open_model(MODEL)
    exact = model.block(0)(model.embed(TOKENS))
    made = list(solve_model(model, TOKENS, FORMATS, LayerwiseOptions.of("normal")))
    importance = {one.name: one.importance for one in made}
    rounded = {
        name: gg.quantize(as_float32(read_tensor(model.tensor(name))), format, imatrix=importance[name])
        for name, format in FORMATS.items()
    }
    plain = solved(LayerwiseOptions.of("fast"))
    corrected = {one.name: one.tensor for one in made}

    def error(weights: dict[str, gg.QuantizedTensor]) -> float:
        return float(np.square(after_first_layer(weights) - exact).mean())

    assert error(corrected) < error(plain) < 0.8 * error(rounded)


def test_the_result_depends_neither_on_threads_nor_on_an_interruption() -> None:
    model = open_model(MODEL)
    options = LayerwiseOptions.of("normal")
    whole = list(solve_model(model, TOKENS, FORMATS, replace(options, threads=1)))
    half = {one.name: one for one in whole[:4]}
    again = list(solve_model(model, TOKENS, FORMATS, replace(options, threads=2), earlier=half))
    assert [one.name for one in again] == [one.name for one in whole]
    assert all(a.tensor == b.tensor for a, b in zip(whole, again, strict=True))


def test_scales_and_clipping_bring_rounded_layers_closer(tmp_path: Path) -> None:
    model = open_model(MODEL)
    exact = model.block(0)(model.embed(TOKENS))
    norms = {t.name for t in model.source.tensors if len(t.shape) == 1}
    rounded = replace(LayerwiseOptions.of("normal"), gptq=False)
    options = replace(rounded, awq=True)
    work = WorkFile(tmp_path / "out.gguf", "00ff" * 16, resume=False)
    folded = fold_scales(model, TOKENS, FORMATS, norms, options, work, lambda _layer, _name: None)
    assert {one.name for one in folded.stored} == {"blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"}
    made = list(solve_model(folded.model, TOKENS, FORMATS, options))
    assert all(one.report.solved <= one.report.weighted for one in made)
    weights = {one.name: one.tensor.dequantize() for one in [*made, *folded.stored]}
    scaled = model.block(0, weights)(model.embed(TOKENS))
    without = after_first_layer(solved(rounded))
    assert np.square(scaled - exact).mean() < 0.95 * np.square(without - exact).mean()


def test_corrected_targets_are_least_squares() -> None:
    rng = np.random.default_rng(4)
    x, y, lack = (rng.standard_normal((300, n)).astype(np.float32) for n in (12, 12, 5))
    w = rng.standard_normal((5, 12)).astype(np.float32)
    moments = Moments(12, cross=True)
    moments.add(x[:100], y[:100], lack[:100])
    moments.add(x[100:], y[100:], lack[100:])
    best = np.linalg.lstsq(x.astype(np.float64), (y @ w.T + lack).astype(np.float64), rcond=None)[0].T
    np.testing.assert_allclose(moments.target(w, 0.0, 1.0, 1.0), best, atol=1e-4)
    assert moments.target(w, 0.0, 0.0, 0.0) is w
    moments.add(np.full((1, 12), np.inf, np.float32))
    with pytest.raises(gg.NonFiniteError, match=r"blk\.7\.x"):
        moments.check("blk.7.x", "a model")


def test_a_whole_model_becomes_an_ordinary_file_of_the_same_size(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The calibration text of this test is short, and says little. " * 40, "utf-8")
    out = tmp_path / "solved.gguf"
    seen: list[str] = []
    report = quantize_by_gptq(
        MODEL,
        out,
        "Q2_K",
        method=LayerwiseOptions.of("fast"),
        calibration=[text],
        context=64,
        chunks=3,
        solving=lambda at: seen.append(at.tensor),
    )
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert not gg.verify(out)
    stand_in = {t.name: np.ones(t.shape[-1]) for t in gg.plan(MODEL, "Q2_K").tensors if t.name.startswith("blk.")}
    plan = gg.plan(MODEL, "Q2_K", imatrix={**stand_in, "output.weight": np.ones(256)})
    file = gg.open(out)
    assert {name: tensor.format for name, tensor in file.tensors.items()} == {t.name: t.format for t in plan.tensors}
    assert file.metadata["quantize.method"] == "gptq fast"
    assert len(report.tensors) == 44 and len(seen) > 20
    assert json.loads(json.dumps(report.as_json()))["calibration_tokens"] == 3 * 64
    with pytest.raises(gg.FileError, match="exists already"):
        quantize_by_gptq(MODEL, out, "Q2_K", calibration=[text], context=64)


def test_damping_that_had_to_grow_is_reported(tmp_path: Path) -> None:
    # Fewer tokens than columns: without damping no Hessian of theirs is positive definite.
    text = tmp_path / "text.txt"
    text.write_text("The calibration text of this test is short, and says little. " * 20, "utf-8")
    how = replace(LayerwiseOptions.of("fast"), damp=0.0)
    made = quantize_by_gptq(MODEL, tmp_path / "o.gguf", "Q4_0", method=how, calibration=[text], context=64, chunks=1)
    solved = [tensor for tensor in made.tensors if tensor.name.startswith("blk.")]
    assert solved and all(tensor.damp > 0 for tensor in solved)
    for tensor in solved:
        assert f"not positive definite with damping of 0: it is {tensor.damp:g}" in tensor.note


def changed_copy(folder: Path, factors: dict[str, float]) -> Path:
    """The model with the second row of some weights multiplied."""
    shutil.copytree(MODEL, folder)
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    for name, factor in factors.items():
        own = tensors[name].astype(np.float32)
        own[1] *= factor
        tensors[name] = own
    save_file(tensors, path)
    return folder


@pytest.mark.parametrize(("method", "effort"), [("gptq", "fast"), ("gptq", "best"), ("awq", "normal")])
def test_a_weight_that_is_not_finite_is_named(method: Method, effort: Effort, tmp_path: Path) -> None:
    model = changed_copy(tmp_path / "model", {"model.layers.1.mlp.down_proj.weight": float("nan")})
    text = tmp_path / "text.txt"
    text.write_text("The calibration text of this test is short, and says little. " * 20, "utf-8")
    how = LayerwiseOptions.of(effort, method)
    with pytest.raises(gg.NonFiniteError, match=r"blk\.1\.ffn_down\.weight.*nan at \[1, 0\]") as caught:
        quantize_by_gptq(model, tmp_path / "o.gguf", "Q4_0", method=how, calibration=[text], context=64, chunks=1)
    assert Path(str(caught.value.file)).parent == model and caught.value.tensor == "blk.1.ffn_down.weight"
    assert {one.name for one in tmp_path.iterdir()} == {"model", "text.txt"}


@pytest.mark.parametrize(
    ("factor", "what"),
    [(1e20, r"layer 1 puts out is not finite .* overflows in float32"), (1e25, r"blk\.1\.ffn_gate\.weight.* squares")],
)
def test_what_overflows_is_named(factor: float, what: str, tmp_path: Path) -> None:
    names = [f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up")]
    model = changed_copy(tmp_path / "model", dict.fromkeys(names, factor))
    text = tmp_path / "text.txt"
    text.write_text("The calibration text of this test is short, and says little. " * 20, "utf-8")
    with pytest.raises(gg.NonFiniteError, match=what):
        quantize_by_gptq(model, tmp_path / "o.gguf", "Q4_0", calibration=[text], context=64, chunks=1)
    assert {one.name for one in tmp_path.iterdir()} == {"model", "text.txt"}


def test_only_blocks_with_the_right_digest_are_taken_up(tmp_path: Path) -> None:
    model = open_model(MODEL)
    made = list(solve_model(model, TOKENS, FORMATS, LayerwiseOptions.of("fast")))
    target = tmp_path / "out.gguf"
    work = WorkFile(target, "00ff" * 16, resume=True)
    for one in made[:3]:
        work.add(one)
    again = WorkFile(target, "00ff" * 16, resume=True)
    assert {name: one.tensor for name, one in again.done.items()} == {one.name: one.tensor for one in made[:3]}
    damaged = bytearray(work.blocks.read_bytes())
    damaged[work.views[made[1].name].offset] ^= 1
    work.blocks.write_bytes(damaged)
    assert list(WorkFile(target, "00ff" * 16, resume=True).done) == [made[0].name]
    assert not WorkFile(target, "00ff" * 16, resume=False).done
    work.remove()
    assert not list(tmp_path.iterdir())


#: Solves a layer and the embedding with gradients and all corrections, and prints a digest of the blocks.
DIGEST = """
import hashlib, sys
import numpy as np
from ggquant.layerwise import LayerwiseOptions, solve_model
from ggquant.runtime import open_model
from dataclasses import replace
tokens = np.random.default_rng(1).integers(5, 4000, size=(2, 64))
names = [f"blk.0.{name}.weight" for name in ("attn_q", "attn_v", "attn_output", "ffn_down")]
formats = {"token_embd.weight": "Q4_K", **dict.fromkeys(names, "Q3_K")}
options = replace(LayerwiseOptions.of("best"), threads=int(sys.argv[2]))
digest = hashlib.sha256()
for one in solve_model(open_model(sys.argv[1], threads=int(sys.argv[2])), tokens, formats, options):
    digest.update(one.tensor.data.tobytes())
print(digest.hexdigest())
"""


def test_the_result_is_the_same_on_every_machine() -> None:
    """As far as one machine can tell: with other instruction sets, threads, and kernels of numpy's and of its BLAS."""
    older = {
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX X86_V3 X86_V4",
        "OPENBLAS_CORETYPE": "Nehalem",
        "OPENBLAS_NUM_THREADS": "1",
    }
    runs: list[tuple[str, int, dict[str, str]]] = [
        (isa, threads, {}) for isa, threads in (("scalar", 1), ("avx2", 2), ("avx512", 2), ("neon", 2))
    ]
    processes = []
    for isa, threads, others in [*runs, (gg.isa(), 1, older)]:
        environment = {**os.environ, **others, "GGQUANT_ISA": isa}
        command = [sys.executable, "-W", "ignore", "-c", DIGEST, str(MODEL), str(threads)]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    digests = []
    for process in processes:
        out, error = process.communicate()
        if process.returncode and "cannot run here" in error:
            continue
        assert process.returncode == 0, error
        digests.append(out)
    assert len(digests) >= 2 and len(set(digests)) == 1


def test_the_command_writes_the_same_file_with_any_threads_and_instruction_set(tmp_path: Path) -> None:
    case = RUNTIME_CASES["qwen3moe"]
    model = write(case, tmp_path / "model")
    text = tmp_path / "text.txt"
    # Three groups of chunks: with two threads two of them go through a layer at the same time.
    words = np.random.default_rng(7).integers(100, 999, size=7000)
    text.write_text(" ".join(map(str, words)), "utf-8")
    digests = set()
    for isa, threads in (("scalar", "1"), (gg.isa(), "2")):
        out = tmp_path / f"{isa}{threads}.gguf"
        command = [sys.executable, "-m", "ggquant", "quantize", str(model), str(out), "Q4_0", "--method", "gptq", "-q",
                   "--calibration", str(text), "-c", "64", "--chunks", "80", "--threads", threads]  # fmt: skip
        command += ["--pre", case.pre] if case.pre else []
        done = subprocess.run(command, env={**os.environ, "GGQUANT_ISA": isa}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
    assert len(digests) == 1

"""Files of Hessians: the same result as without, and nothing but an error from a file that is not the right one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import ggquant as gg
from ggquant.calibration import CalibrationText
from ggquant.layerwise import LayerwiseOptions, solve_model
from ggquant.layerwise.convert import quantize_by_gptq, stored_hessians
from ggquant.layerwise.hessians import HessianFile, Origin, collect_hessians, disk_need
from ggquant.model import Factors, SourceTensor
from ggquant.runtime import RunnableModel, open_model
from ggquant.runtime.linear import Arithmetic
from ggquant.runtime.weights import as_float32, read_tensor
from runtime_cases import RUNTIME_CASES
from tiny_checkpoints import write

MODEL = Path(__file__).parents[1] / "data" / "tinylm"
TOKENS = np.random.default_rng(1).integers(5, 4000, size=(3, 64))
TEXT = CalibrationText("a text", ("text.txt",))


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Origin]:
    model = open_model(MODEL)
    path = tmp_path_factory.mktemp("hessians") / "h.safetensors"
    origin = Origin.of(model, TEXT, TOKENS)
    collect_hessians(model, TOKENS, path, origin)
    assert path.stat().st_size <= disk_need(model)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    return path, origin


def long_text(folder: Path) -> Path:
    text = folder / "text.txt"
    text.write_text("The calibration text of this test is short, and says little. " * 40, "utf-8")
    return text


def test_a_file_gives_the_bytes_of_a_run_without_sequence(tmp_path: Path) -> None:
    text, case = long_text(tmp_path), RUNTIME_CASES["qwen3"]
    model = write(case, tmp_path / "model")
    options = LayerwiseOptions.of("fast")

    def run(name: str, how: LayerwiseOptions, hessians: Path | None) -> bytes:
        out = tmp_path / name
        quantize_by_gptq(model, out, "Q4_0", method=how, calibration=[text], context=64, chunks=3, hessians=hessians)
        return out.read_bytes()

    file = tmp_path / "h.safetensors"
    without = run("a.gguf", replace(options, sequential=False), None)
    assert run("b.gguf", options, file) == without
    before = file.stat()
    assert run("c.gguf", options, file) == without
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(gg.FileError, match=r"tokens in a chunk: 64 there, 32 here.*chunks: 3 there, 4 here"):
        quantize_by_gptq(model, tmp_path / "d.gguf", "Q4_0", calibration=[text], context=32, chunks=4, hessians=file)
    with pytest.raises(gg.UsageError, match="--effort normal"):
        quantize_by_gptq(
            model, tmp_path / "d.gguf", "Q4_0", method=LayerwiseOptions.of("best"), calibration=[text], hessians=file
        )


def test_scaled_weights_are_solved_with_what_scales_make_of_a_hessian(
    collected: tuple[Path, Origin],
) -> None:
    """Inputs divided by scales, or the Hessian. A mean square is a chain of 192 additions on either side, and some more
    roundings; losses are sums of such, times errors that are the same unless a search turns on the last bit."""
    model = open_model(MODEL)
    scales = np.linspace(0.3, 3, 256, dtype=np.float32)
    names = [f"blk.0.attn_{name}.weight" for name in "qkv"]
    norm = "blk.0.attn_norm.weight"
    data = (as_float32(read_tensor(model.tensor(norm))) / scales).astype("<f4").tobytes()
    changed = {norm: SourceTensor(name=norm, shape=(256,), dtype="F32", inline=data)}
    changed |= {name: replace(model.tensor(name), factors=Factors(None, scales.tobytes())) for name in names}
    tensors = [changed.get(tensor.name, tensor) for tensor in model.source.tensors]
    scaled = RunnableModel(replace(model.source, tensors=tensors), model.path, Arithmetic())
    formats = dict.fromkeys(names, "Q4_0")
    options = LayerwiseOptions.of("fast").with_file()
    ran = list(solve_model(scaled, TOKENS, formats, options))
    stored = list(solve_model(scaled, TOKENS, formats, options, hessians=HessianFile(*collected)))
    assert [one.name for one in stored] == names
    bound = 2 * 200 * 2.0**-24
    for one, other in zip(ran, stored, strict=True):
        np.testing.assert_allclose(one.importance, other.importance, rtol=bound)
        np.testing.assert_allclose(one.report.weighted, other.report.weighted, rtol=1e-3)


def test_experts_have_hessians_of_their_own(tmp_path: Path) -> None:
    case = RUNTIME_CASES["qwen3moe"]
    model = open_model(write(case, tmp_path), pre=case.pre)
    tokens = np.random.default_rng(2).integers(0, model.n_vocab, size=(3, 32))
    file = collect_hessians(model, tokens, tmp_path / "h.safetensors", Origin.of(model, TEXT, tokens))
    (stage,) = [stage for stage in file.stages(0) if "blk.0.ffn_up_exps.weight" in stage.names]
    assert stage.experts
    own = file.moments("blk.0.ffn_up_exps.weight")
    experts, _, columns = model.tensor("blk.0.ffn_up_exps.weight").shape
    assert len(own) == experts and own[0].hessian.shape == (columns, columns)
    assert sum(one.tokens for one in own) == tokens.size * model.hyper.number("expert_used_count", 0)


@pytest.mark.parametrize("name", ["qwen3", "bert"])
def test_hessians_are_those_of_the_inputs(name: str, tmp_path: Path) -> None:
    # Layers of one case begin with a norm, those of the other read the states themselves.
    case = RUNTIME_CASES[name]
    model = open_model(write(case, tmp_path), pre=case.pre)
    tokens = np.random.default_rng(2).integers(0, model.n_vocab, size=(70, 64))
    file = collect_hessians(model, tokens, tmp_path / "h.safetensors", Origin.of(model, TEXT, tokens))
    seen: dict[str, np.ndarray] = {}

    def hook(weight: str, x: np.ndarray, ids: np.ndarray | None) -> None:
        seen[weight] = seen.get(weight, 0) + x.astype(np.float64).T @ x

    h = model.embed(tokens)
    for layer in range(model.n_layer):
        h = model.block(layer)(h, hook)
    assert seen
    for weight, expected in seen.items():
        # Sums of 4480 products in float32 over 256 at a time.
        np.testing.assert_allclose(file.moments(weight)[0].hessian, expected, rtol=1e-4, atol=1e-6 * expected.max())


def test_one_changed_weight_makes_another_model(collected: tuple[Path, Origin], tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(MODEL, copy)
    _, origin = collected
    assert Origin.of(open_model(copy), TEXT, TOKENS) == origin
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    assert Origin.of(open_model(copy), TEXT, TOKENS).differences(asdict(origin)) == ["the model is another one"]


def test_every_difference_is_named(collected: tuple[Path, Origin]) -> None:
    path, origin = collected
    for change, words in (
        ({"model": "x"}, "the model is another one"),
        ({"tokenizer": "x"}, "the tokenizer is another one"),
        ({"text": "x"}, "the calibration text is another one"),
        ({"context": 1}, "tokens in a chunk: 64 there, 1 here"),
        ({"chunks": 1}, "chunks: 3 there, 1 here"),
        ({"tokens": "x"}, "--seed"),
    ):
        with pytest.raises(gg.FileError, match=words):
            HessianFile(path, replace(origin, **change))


def test_damage_is_an_error(collected: tuple[Path, Origin], tmp_path: Path) -> None:
    path, origin = collected
    whole = path.read_bytes()
    copy = tmp_path / "h.safetensors"
    length = int.from_bytes(whole[:8], "little")
    for size in (0, 4, 8, 100, 8 + length - 1, 8 + length, len(whole) - 1):
        copy.write_bytes(whole[:size])
        with pytest.raises(gg.FileError, match=r"h\.safetensors.*remove it"):
            HessianFile(copy, origin)
    for header in (b"[]", b"{}", b'{"__metadata__":{"ggquant.hessians":"2"}}', b"{", b"\xff\xfe"):
        copy.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(gg.FileError, match="remove it"):
            HessianFile(copy, origin)
    entry = json.loads(whole[8 : 8 + length])["blk.1.ffn_down.weight"]
    damaged = bytearray(whole)
    damaged[8 + length + entry["data_offsets"][0] + 5] ^= 1
    copy.write_bytes(damaged)
    file = HessianFile(copy, origin)
    file.moments("blk.1.attn_q.weight")
    with pytest.raises(gg.FileError, match=r"blk\.1\.ffn_down\.weight.*not the one that was written"):
        file.moments("blk.1.ffn_down.weight")
    with pytest.raises(gg.FileError, match=r"no Hessian for 'blk\.99\.x'"):
        file.moments("blk.99.x")


def test_a_run_without_room_on_the_disk_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = open_model(MODEL)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(gg.UsageError, match=r"up to 0\.\d+ GB of disk space"):
        collect_hessians(model, TOKENS, tmp_path / "h.safetensors", Origin.of(model, TEXT, TOKENS))
    assert not list(tmp_path.iterdir())


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from ggquant.calibration import CalibrationText
from ggquant.layerwise.hessians import Origin, collect_hessians
from ggquant.model import Factors, SourceTensor
from ggquant.runtime import RunnableModel, open_model
from ggquant.runtime.linear import Arithmetic
from ggquant.runtime.weights import as_float32, read_tensor
model, tokens = open_model(sys.argv[1]), np.load(sys.argv[2])
def stop(layer, name):
    if layer == 2:
        print("there", flush=True)
        sys.stdin.read()
origin = Origin.of(model, CalibrationText("a text", ("text.txt",)), tokens)
collect_hessians(model, tokens, Path(sys.argv[3]), origin, resume=True, progress=stop)
"""


def test_a_killed_run_is_gone_on_with(collected: tuple[Path, Origin], tmp_path: Path) -> None:
    path, origin = collected
    np.save(tmp_path / "tokens.npy", TOKENS)
    out = tmp_path / "out" / "h.safetensors"
    out.parent.mkdir()
    command = [sys.executable, "-c", SCRIPT, str(MODEL), str(tmp_path / "tokens.npy"), str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        os.kill(process.pid, signal.SIGKILL)
    assert not out.exists() and len(list(out.parent.iterdir())) == 2
    (index,) = out.parent.glob(".*.jsonl")
    done = index.read_text("utf-8").splitlines()
    assert len(done) == 8
    # A line that was cut short, and what it was to describe, count for nothing.
    index.write_text("\n".join(done)[:-9], "utf-8")
    collect_hessians(open_model(MODEL, threads=1), TOKENS, out, origin, resume=True)
    assert out.read_bytes() == path.read_bytes()
    assert [one.name for one in out.parent.iterdir()] == [out.name]


def test_the_command_names_what_does_not_go_together(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ggquant", "quantize", str(MODEL), str(tmp_path / "o.gguf"), "Q4_0"]
    command += ["--method", "gptq", "--hessians", str(tmp_path / "h"), "--sequential"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode != 0
    assert "--sequential cannot be used together with --hessians" in made.stderr
    assert not list(tmp_path.iterdir())


def test_a_file_is_made_where_there_is_none(tmp_path: Path) -> None:
    model = open_model(MODEL)
    seen: list[str] = []
    path = tmp_path / "h.safetensors"
    stored_hessians(model, TEXT, TOKENS, path, resume=False, progress=lambda _, name: seen.append(name))
    again = stored_hessians(model, TEXT, TOKENS, path, resume=False, progress=lambda _, name: seen.append(name))
    assert seen.pop(0).startswith("Hessians: up to 0.01 GB of disk space, ")
    assert seen == [*(f"blk.{layer}.attn_q.weight" for layer in range(model.n_layer)), model.output_name]
    assert again.moments("output.weight")[0].tokens == TOKENS.size

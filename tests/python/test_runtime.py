"""The forward pass against transformers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ggquant as gg
from ggquant import runtime
from ggquant.model import SourceTensor, View
from ggquant.runtime import weights
from ggquant.runtime.linear import Arithmetic
from runtime_cases import ROWS, RUNTIME_CASES, tokens
from tiny_checkpoints import write

GOLDEN = Path(__file__).resolve().parents[1] / "data/runtime/logits.npz"

#: Both sides compute in float32, with other orders of additions; a wrong mask, angle or scale gives 1e-2 and more.
TOLERANCE = 1e-4


@pytest.mark.parametrize("name", RUNTIME_CASES)
def test_same_logits_as_transformers(name: str, tmp_path: Path) -> None:
    case = RUNTIME_CASES[name]
    model = runtime.open_model(write(case, tmp_path), pre=case.pre)
    h = model.forward(tokens(name))
    result = model.logits(h) if model.causal else model.normalized(h)
    ours = result.reshape(-1, result.shape[-1])[list(ROWS)]
    with np.load(GOLDEN) as golden:
        theirs = golden[name]
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


_DIGEST = """
import hashlib, sys
import numpy as np
from ggquant import UnsupportedError, runtime
from ggquant.runtime import ops
try:
    model = runtime.open_model(sys.argv[1], threads=int(sys.argv[2]))
    tokens = np.arange(96).reshape(2, 48) * 7 % 250
    h = model.forward(tokens)
    logits = model.logits(h)
    losses = ops.negative_log_likelihood(logits.reshape(96, -1), tokens.reshape(-1), model.threads)
except UnsupportedError:
    sys.exit(3)
sums = ops.column_squares(h.reshape(96, -1), model.threads)
print(hashlib.sha256(b"".join(a.tobytes() for a in (h, logits, losses, sums))).hexdigest())
"""


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss"])
def test_same_bits_on_every_instruction_set_and_number_of_threads(name: str, tmp_path: Path) -> None:
    case = RUNTIME_CASES[name]
    folder = _as_f32(write(case, tmp_path), tmp_path / "m.gguf", case.pre)
    digests = {}
    for isa, threads in (("scalar", 1), ("avx2", 1), ("avx2", 3), ("avx512", 2), ("neon", 2)):
        done = subprocess.run(
            [sys.executable, "-c", _DIGEST, str(folder), str(threads)],
            env={**os.environ, "GGQUANT_ISA": isa},
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, 3), done.stderr
        if done.returncode == 0:
            digests[isa, threads] = done.stdout
    assert ("scalar", 1) in digests and len(set(digests.values())) == 1, digests


def _as_f32(folder: Path, target: Path, pre: str) -> Path:
    gg.convert(folder, target, "F32", pre=pre)
    return target


@pytest.mark.parametrize("variant", ["Q8_0", "Q4_K_M", "IQ4_XS"])
def test_a_quantized_file_runs_as_its_decoded_weights_do(variant: str, tmp_path: Path) -> None:
    case = RUNTIME_CASES["mixtral"]
    gg.convert(write(case, tmp_path), tmp_path / "q.gguf", variant, pre=case.pre)
    quantized = gg.open(tmp_path / "q.gguf")
    with gg.GGUFWriter(tmp_path / "f.gguf", quantized.metadata) as writer:
        for name, tensor in quantized.tensors.items():
            writer.add(name, tensor.dequantize())
    ids = tokens("mixtral")
    results = []
    for file in ("q.gguf", "f.gguf"):
        model = runtime.open_model(tmp_path / file)
        results.append(model.logits(model.forward(ids)))
    np.testing.assert_array_equal(results[0], results[1])
    mimicking = runtime.open_model(tmp_path / "q.gguf", activations="int8")
    rounded = mimicking.logits(mimicking.forward(ids))
    # Eight bits an activation: a little off, and not the same.
    assert 0 < np.linalg.norm(rounded - results[0]) / np.linalg.norm(results[0]) < 0.1


def test_layers_can_run_with_other_weights(tmp_path: Path) -> None:
    case = RUNTIME_CASES["qwen3"]
    model = runtime.open_model(write(case, tmp_path), pre=case.pre)
    h = model.embed(tokens("qwen3"))
    plain = model.block(0)(h)
    name = "blk.0.ffn_down.weight"
    shape = model.tensor(name).shape
    with_zeros = model.block(0, {name: np.zeros(shape, np.float32)})(h)
    assert not np.array_equal(plain, with_zeros)
    quantized = gg.quantize(np.zeros(shape, np.float32), "Q8_0")
    np.testing.assert_array_equal(model.block(0, {name: quantized})(h), with_zeros)
    with pytest.raises(gg.ShapeError, match=r"blk\.0\.ffn_down\.weight"):
        model.block(0, {name: np.zeros((3, 4), np.float32)})


def test_the_hook_sees_the_input_of_every_matrix(tmp_path: Path) -> None:
    case = RUNTIME_CASES["mixtral"]
    model = runtime.open_model(write(case, tmp_path), pre=case.pre)
    seen: dict[str, list[tuple[tuple[int, ...], object]]] = {}

    def hook(name: str, x: np.ndarray, ids: np.ndarray | None) -> None:
        expert = None if ids is None else sorted(set(ids.tolist()))
        seen.setdefault(name, []).append((x.shape, expert))
        assert ids is None or len(ids) == len(x)

    h = model.forward(tokens("mixtral"), hook)
    model.logits(h[:1], hook)
    matrices = {t.name for t in model.source.tensors if len(t.shape) > 1} - {"token_embd.weight"}
    assert set(seen) == matrices
    for name, calls in seen.items():
        rows = sum(shape[0] for shape, _ in calls)
        assert {shape[1] for shape, _ in calls} == {model.tensor(name).shape[-1]}
        if "_exps" in name:
            assert rows == 2 * 96 and all(expert is not None and len(expert) == 1 for _, expert in calls)
        else:
            assert rows == (48 if name == "output.weight" else 96) and all(expert is None for _, expert in calls)


@pytest.mark.parametrize(
    ("ids", "message"), [([[0, 288]], "token 288 is outside"), ([[-1]], "token -1"), ([[[0]]], "n_chunks, n_ctx")]
)
def test_tokens_that_cannot_be(ids: list[object], message: str, tmp_path: Path) -> None:
    case = RUNTIME_CASES["qwen3"]
    model = runtime.open_model(write(case, tmp_path), pre=case.pre)
    with pytest.raises(gg.ShapeError, match=message):
        model.embed(ids)


def test_models_that_cannot_run(tmp_path: Path) -> None:
    with gg.GGUFWriter(tmp_path / "m.gguf", {"general.architecture": "mamba"}) as writer:
        writer.add("token_embd.weight", np.zeros((4, 4), np.float32))
    with pytest.raises(gg.UnsupportedError, match="'mamba' cannot be run; those that can are bert,"):
        runtime.open_model(tmp_path / "m.gguf")
    bert = RUNTIME_CASES["bert"]
    model = runtime.open_model(write(bert, tmp_path), pre=bert.pre)
    with pytest.raises(gg.UnsupportedError, match="embeddings"):
        model.logits(model.forward(tokens("bert")))
    with pytest.raises(gg.ShapeError, match="64 positions"):
        model.embed(np.zeros((1, 65), int))


def test_a_file_cut_short_is_an_error_that_names_the_tensor(tmp_path: Path) -> None:
    case = RUNTIME_CASES["qwen3"]
    folder = write(case, tmp_path)
    model = runtime.open_model(folder, pre=case.pre)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20000])
    with pytest.raises(gg.MalformedFileError, match=r"tensor '.*' ends beyond the end of the file"):
        model.block(1)


def test_activations_are_rounded_to_the_type_of_the_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((9, 64)) * 10.0 ** rng.integers(-9, 6, (9, 64))).astype(np.float32)
    how = Arithmetic("int8")
    for dtype in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)):
        weight = rng.standard_normal((5, 64)).astype(dtype)
        with np.errstate(over="ignore"):
            wanted = x.astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(how.input(weight, x), wanted)
        assert how.input(weight, x) is how.input(weight[:2], x)
    for weight in (
        rng.standard_normal((5, 64), np.float32),
        gg.quantize(rng.standard_normal((5, 64), np.float32), "Q8_0"),
    ):
        assert how.input(weight, x) is x
    assert Arithmetic("float32").input(weight.dequantize().astype(np.float16), x) is x


@given(
    rows=st.integers(1, 60), columns=st.integers(1, 40), wanted=st.lists(st.integers(0, 59), max_size=80),
    gap=st.integers(0, 300), piece=st.integers(1, 3000),
)  # fmt: skip
@settings(deadline=None)
def test_rows_are_read_whatever_lies_between_them(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, wanted: list[int], gap: int, piece: int
) -> None:
    path = tmp_path_factory.mktemp("rows") / "data"
    values = np.random.default_rng(rows * columns).standard_normal((rows, columns)).astype(np.float32)
    path.write_bytes(b"before" + values.tobytes())
    view = View(str(path), 6, "F32", values.shape, (columns, 1))
    tensor = SourceTensor("w", values.shape, "F32", (view,))
    ids = np.array([row % rows for row in wanted], np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "_GAP", gap)
        patch.setattr(weights, "_PIECE", piece)
        assert np.array_equal(weights.read_rows(tensor, ids), values[ids])

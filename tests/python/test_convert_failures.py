"""The command on inputs that are wrong: exit code, one line that names file and remedy, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ggquant as gg
from convert_cases import CONVERT, TINYLM

LIMIT = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
from ggquant.cli import main
sys.argv[0] = "ggquant"
main()
"""


def run(*words: object, cwd: Path | None = None, limited: bool = False) -> subprocess.CompletedProcess[str]:
    start = ["-c", LIMIT] if limited else ["-m", "ggquant"]
    return subprocess.run([sys.executable, *start, *map(str, words)], capture_output=True, text=True, cwd=cwd)


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *parts: object) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    (line,) = (text for text in done.stderr.splitlines() if text.startswith("ggquant: error: "))
    assert done.stderr.splitlines()[-1] == line
    for part in parts:
        assert str(part) in line


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINYLM, tmp_path / "tinylm"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    gg.convert(TINYLM, path, "Q8_0")
    return path


@pytest.fixture(scope="module")
def shards(model: Path) -> list[Path]:
    return gg.split(model, model.parent / "part", max_tensors=30)


def quantize(source: Path, tmp_path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    out = tmp_path / "out"
    out.mkdir()
    done = run("quantize", source, out / "out.gguf", *(words or ("Q4_0",)))
    assert done.returncode == 0 or not list(out.iterdir())
    return done


def test_a_missing_folder(tmp_path: Path) -> None:
    assert_refused(quantize(tmp_path / "none", tmp_path), 1, tmp_path / "none", "no such file or folder")


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(quantize(tmp_path / "empty", tmp_path), 1, tmp_path / "empty", "config.json")


def test_a_checkpoint_without_weights(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    assert_refused(quantize(checkpoint, tmp_path), 1, checkpoint, "safetensors")


def test_pickled_weights(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    assert_refused(quantize(checkpoint, tmp_path), 1, checkpoint, "pickle", "safetensors")


def test_a_pickled_file(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\x80\x02.")
    assert_refused(quantize(tmp_path / "model.bin", tmp_path), 1, tmp_path / "model.bin", "pickle", "safetensors")


@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_truncated_safetensors(size: int, checkpoint: Path, tmp_path: Path) -> None:
    os.truncate(checkpoint / "model.safetensors", size)
    assert_refused(quantize(checkpoint, tmp_path), 1, "model.safetensors")


@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_a_truncated_gguf(size: int, model: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(model.read_bytes()[:size])
    assert_refused(quantize(short, tmp_path), 1, short)
    assert run("verify", short).returncode == 1


@pytest.mark.parametrize("bits", [0x7FC0, 0xFF80])
def test_a_weight_that_is_not_finite(bits: int, checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "model.safetensors"
    data = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    facts = json.loads(data[8 : 8 + length])["model.layers.3.mlp.up_proj.weight"]
    at = 8 + length + facts["data_offsets"][0] + 2 * (17 * facts["shape"][1] + 5)
    data[at : at + 2] = struct.pack("<H", bits)
    path.write_bytes(data)
    assert_refused(quantize(checkpoint, tmp_path), 1, "'blk.3.ffn_up.weight'", "row 17, column 5")


def test_an_unknown_variant(tmp_path: Path) -> None:
    assert_refused(quantize(TINYLM, tmp_path, "Q4_KM"), 2, "Q4_KM", "Q4_K_M")


def test_an_unknown_architecture(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["ZorkForCausalLM"]}))
    assert_refused(quantize(checkpoint, tmp_path), 1, path, "ZorkForCausalLM")


@pytest.mark.parametrize("content", [b"GGUF", b"\xff\xff\xff\x7f"])
def test_a_damaged_imatrix(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.imatrix"
    path.write_bytes(content)
    assert_refused(quantize(TINYLM, tmp_path, "Q4_0", "--imatrix", path), 1, path)


def test_an_imatrix_of_tensors_that_the_model_lacks(tmp_path: Path) -> None:
    # As of a mixture of experts with rows of the same length: its attention would fit.
    names = [f"blk.0.{name}.weight" for name in ("attn_q", "attn_k", "ffn_up_exps", "ffn_gate_inp")]
    with pytest.raises(gg.ImatrixError, match=r"2 of 4 tensors, such as 'blk.0.ffn_up_exps.weight'.*another model"):
        gg.convert(TINYLM, tmp_path / "o.gguf", "Q4_0", imatrix={name: np.ones(256, np.float32) for name in names})


def test_an_imatrix_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": ["text"],
        "imatrix.chunk_count": 1,
        "imatrix.chunk_size": 512,
    }
    with gg.GGUFWriter(path, metadata) as writer:
        writer.add("blk.0.attn_q.weight.in_sum2", np.ones((1, 512), np.float32))
        writer.add("blk.0.attn_q.weight.counts", np.ones((1, 1), np.float32))
    done = quantize(TINYLM, tmp_path, "Q4_0", "--imatrix", path)
    assert_refused(done, 1, "'blk.0.attn_q.weight'", "512", "another model")


def test_a_missing_imatrix(tmp_path: Path) -> None:
    assert_refused(quantize(TINYLM, tmp_path, "IQ2_XS"), 1, "importance matrix")
    assert_refused(run("quantize", TINYLM, "Q4_0", "--imatrix", tmp_path / "none"), 1, tmp_path / "none")


@pytest.mark.parametrize("how", ["same", "symlink", "hard link", "relative"])
def test_the_output_is_the_input(how: str, model: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "model.gguf", tmp_path / "model.gguf"
    shutil.copy(model, source)
    if how == "symlink":
        target = tmp_path / "other.gguf"
        target.symlink_to(source)
    elif how == "hard link":
        target = tmp_path / "other.gguf"
        target.hardlink_to(source)
    elif how == "relative":
        target = tmp_path / "." / ".." / tmp_path.name / "model.gguf"
    before = sorted(tmp_path.iterdir())
    done = run("quantize", "--allow-requantize", "--overwrite", source, target, "Q4_0")
    assert_refused(done, 2, target.name, "input")
    assert source.read_bytes() == model.read_bytes() and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_the_output_is_a_part_of_the_checkpoint(name: str, checkpoint: Path) -> None:
    assert_refused(run("quantize", "--overwrite", checkpoint, checkpoint / name, "Q4_0"), 2, name, "input")
    assert (checkpoint / name).read_bytes() == (TINYLM / name).read_bytes()


def test_the_output_is_the_imatrix(tmp_path: Path) -> None:
    path = Path(shutil.copy(CONVERT / "imatrix.gguf", tmp_path))
    assert_refused(run("quantize", "--overwrite", "--imatrix", path, TINYLM, path, "Q4_0"), 2, path, "input")
    assert path.read_bytes() == (CONVERT / "imatrix.gguf").read_bytes()


@pytest.mark.parametrize("command", ["quantize", "merge", "split"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_what_was_there(
    command: str, existing: bool, model: Path, shards: list[Path], tmp_path: Path
) -> None:
    target = tmp_path / "out.gguf"
    if command == "split":
        target = tmp_path / "out-00001-of-00002.gguf"
    if existing:
        target.write_bytes(b"precious")
    words: dict[str, list[object]] = {
        "quantize": [TINYLM, target, "Q4_0"],
        "merge": [shards[0], target],
        "split": [model, tmp_path / "out", "--split-max-tensors", 50],
    }
    done = run(command, *words[command], "--overwrite", "--quiet", limited=True)
    assert_refused(done, 1, target.name, "File too large")
    assert [p.name for p in tmp_path.iterdir()] == ([target.name] if existing else [])
    assert not existing or target.read_bytes() == b"precious"


def test_split_and_merge_give_the_file_back(model: Path, tmp_path: Path) -> None:
    assert run("split", model, tmp_path / "part", "--split-max-size", "3M", "--quiet").returncode == 0
    shards = sorted(tmp_path.iterdir())
    assert len(shards) > 2 and run("verify", shards[-1]).returncode == 0
    assert run("merge", shards[0], tmp_path / "merged.gguf", "--quiet").returncode == 0
    merged, whole = gg.open(tmp_path / "merged.gguf"), gg.open(model)
    kept = {key: value for key, value in merged.metadata.items() if not key.startswith("split.")}
    assert kept == dict(whole.metadata)
    assert list(merged.tensors) == list(whole.tensors)
    assert all(tensor.quantized() == whole.tensors[name].quantized() for name, tensor in merged.tensors.items())


@pytest.mark.parametrize(
    ("command", "words"), [("verify", ["--threads", 0]), ("quantize", ["x", "Q8_0", "--threads", 0])]
)
def test_no_threads(command: str, words: list[object], model: Path) -> None:
    assert_refused(run(command, model, *words), 2, "thread")


def test_an_output_of_merge_or_split_is_an_input(model: Path, tmp_path: Path) -> None:
    parts = gg.split(model, tmp_path / "part", max_tensors=50)
    before = {path: path.read_bytes() for path in parts}
    (tmp_path / "link.gguf").symlink_to(parts[1])
    for target in (parts[0], tmp_path / "link.gguf"):
        assert_refused(run("merge", "--overwrite", "--quiet", parts[0], target), 1, target.name, "also read from")
    # The names of the shards would be those of the shards that are read.
    words = ["--split-max-tensors", 50, parts[0], tmp_path / "part"]
    assert_refused(run("split", "--overwrite", "--quiet", *words), 1, parts[0].name, "also read from")
    assert {path: path.read_bytes() for path in parts} == before
    assert sorted(tmp_path.iterdir()) == sorted([*parts, tmp_path / "link.gguf"])

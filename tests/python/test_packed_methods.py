"""Exports by GPTQ and AWQ: better than rounding, complete, and the same after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import ggquant as gg
from ggquant.checkpoint_index import read_header
from ggquant.export.calibrated import Calibration
from ggquant.export.run import ExportReport, export_checkpoint
from ggquant.export.scheme import Layout, Method, Scheme
from ggquant.runtime import open_model
from packed_files import array

DATA = Path(__file__).resolve().parents[1] / "data"
TINYLM = DATA / "tinylm"
HELD_OUT = DATA / "evaluation" / "text.txt"


def _export(folder: Path, to: Layout, scheme: Scheme, method: Method, **options: Any) -> ExportReport:
    how = Calibration(chunks=6, context=256, **options) if method != "rtn" else None
    return export_checkpoint(TINYLM, folder, to, scheme=scheme, method=method, calibration=how)


def _log_probabilities(source: Path, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    model = open_model(source, pre="gpt-2")
    logits = model.logits(model.forward(tokens)).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.fixture(scope="module")
def held_out() -> npt.NDArray[np.int64]:
    from ggquant.tokenizing import Tokenizer

    model = open_model(TINYLM)
    ids = Tokenizer(model.metadata, model.path).encode(HELD_OUT.read_text("utf-8"))
    return np.array(ids[:512], np.int64).reshape(2, 256)


@pytest.fixture(scope="module")
def original(held_out: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return _log_probabilities(TINYLM, held_out)


@pytest.mark.parametrize(
    ("to", "scheme", "methods"),
    [
        ("gptq", Scheme(3, 64, True), [("gptq", {"act_order": True})]),
        ("awq", Scheme(4, 128, False), [("awq+gptq", {})]),
        ("compressed-tensors", Scheme(3, 128, False), [("gptq", {"sequential": False})]),
    ],
)
def test_methods_are_closer_to_the_original_than_rounding(
    tmp_path: Path,
    held_out: npt.NDArray[np.int64],
    original: npt.NDArray[np.float64],
    to: Layout,
    scheme: Scheme,
    methods: list[tuple[Method, dict[str, Any]]],
) -> None:
    def divergence(folder: Path) -> float:
        found = _log_probabilities(folder, held_out)
        return float((np.exp(original) * (original - found)).sum(axis=-1).mean())

    _export(tmp_path / "rtn", to, scheme, "rtn")
    rounded = divergence(tmp_path / "rtn")
    for method, options in methods:
        folder = tmp_path / f"{method}{len(options)}"
        report = _export(folder, to, scheme, method, **options)
        assert len(report.modules) == 42
        assert report.tokens == 6 * 256
        gains = [module.gain for module in report.modules if module.gain is not None]
        assert len(gains) == 42
        if not options.get("act_order"):
            assert max(gains) <= 1
        assert np.mean(gains) < 0.95
        assert divergence(folder) < 0.85 * rounded, (method, options)
        config = json.loads((folder / "config.json").read_text())["quantization_config"]
        if to == "gptq":
            assert config["desc_act"] is bool(options.get("act_order"))
            assert config["meta"]["true_sequential"] is True


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_norms_take_up_exactly_what_the_weights_get(tmp_path: Path) -> None:
    """The model before rounding stays the same function: at 8 bits AWQ changes next to nothing."""
    _export(tmp_path / "awq", "compressed-tensors", Scheme(8, 32, False), "awq")
    before, after = (
        {n: t for path in folder.glob("*.safetensors") for n, t in read_header(path).items()}
        for folder in (TINYLM, tmp_path / "awq")
    )
    norms = [name for name in before if name.endswith("layernorm.weight")]
    changed = [n for n in norms if not np.array_equal(array(before[n]), array(after[n]))]
    assert changed
    assert all(after[name].dtype == before[name].dtype for name in norms)
    tokens = np.arange(256, dtype=np.int64).reshape(1, 256) + 300
    one, other = (open_model(path, pre="gpt-2") for path in (TINYLM, tmp_path / "awq"))
    a, b = (model.logits(model.forward(tokens)) for model in (one, other))
    assert np.abs(a - b).max() < 0.05 * np.abs(a).max()


def test_act_order_has_its_place_in_gptq(tmp_path: Path) -> None:
    with pytest.raises(gg.UsageError, match="act-order"):
        _export(tmp_path / "out", "awq", Scheme(4, 64, False), "gptq", act_order=True)
    with pytest.raises(gg.UsageError, match="not with compressed-tensors"):
        _export(tmp_path / "out", "compressed-tensors", Scheme(4, 64, True), "gptq", act_order=True)
    with pytest.raises(gg.UsageError, match="calibration goes with"):
        export_checkpoint(TINYLM, tmp_path / "out", "awq", method="rtn", calibration=Calibration())
    assert not list(tmp_path.iterdir())


def test_results_do_not_depend_on_threads(tmp_path: Path) -> None:
    how = Calibration(chunks=2, context=64)
    for threads in (1, 2):
        export_checkpoint(
            TINYLM, tmp_path / str(threads), "gptq", scheme=Scheme(4, 64), method="awq+gptq", calibration=how,
            threads=threads,
        )  # fmt: skip
    assert _bytes(tmp_path / "1") == _bytes(tmp_path / "2")


#: Exports with --resume, and kills itself once so many modules and tensors are written.
_KILLED = """
import os, signal, sys
from ggquant.export.calibrated import Calibration
from ggquant.export.run import export_checkpoint
from ggquant.export.scheme import Scheme

source, target, method, left = *sys.argv[1:4], int(sys.argv[4])

def count(progress):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

how = Calibration(chunks=2, context=64) if method else None
export_checkpoint(
    source, target, "gptq", scheme=Scheme(4, 64), method=method or None, calibration=how,
    max_shard_bytes=1_000_000, overwrite=True, resume=True, progress=count,
)
"""


@pytest.mark.parametrize("method", ["", "awq+gptq"])
def test_killed_exports_end_in_the_same_bytes(tmp_path: Path, method: str) -> None:
    command = [sys.executable, "-m", "ggquant", "export", "--quiet", str(TINYLM), str(tmp_path / "out"), "--to", "gptq"]
    command += ["--group-size", "64", "--max-shard-size", "1M"]
    command += ["--method", method, "--chunks", "2", "-c", "64"] if method else []
    subprocess.run(command, check=True)
    wanted = _bytes(tmp_path / "out")
    old = {"config.json": b"another checkpoint"}
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    (tmp_path / "out" / "config.json").write_bytes(old["config.json"])
    written = 0
    for more in (5, 17):
        killed = subprocess.run([sys.executable, "-c", _KILLED, str(TINYLM), str(tmp_path / "out"), method, str(more)])
        assert killed.returncode == -signal.SIGKILL
        assert _bytes(tmp_path / "out") == old
        (journal,) = tmp_path.glob(".ggquant-out.*.part/.ggquant-journal")
        lines = journal.read_text().count("\n")
        assert lines >= written + more
        written = lines
    subprocess.run([*command, "--resume", "--overwrite"], check=True)
    assert _bytes(tmp_path / "out") == wanted
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_an_unfinished_folder_holds_is_verified(tmp_path: Path) -> None:
    def stop(progress: gg.Progress) -> None:
        if progress.tensors_done == 20:
            raise RuntimeError("enough")

    scheme = Scheme(4, 32)
    export_checkpoint(TINYLM, tmp_path / "whole", "gptq", scheme=scheme, resume=True)
    with pytest.raises(RuntimeError, match="enough"):
        export_checkpoint(TINYLM, tmp_path / "out", "gptq", scheme=scheme, resume=True, progress=stop)
    (left,) = tmp_path.glob(".ggquant-out.*.part")
    (weights,) = left.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[len(data) // 3] ^= 1
    weights.write_bytes(bytes(data))
    export_checkpoint(TINYLM, tmp_path / "out", "gptq", scheme=scheme, resume=True)
    assert _bytes(tmp_path / "out") == _bytes(tmp_path / "whole")
    # Other arguments find nothing to go on from, and clear what nobody will want.
    with pytest.raises(RuntimeError, match="enough"):
        export_checkpoint(TINYLM, tmp_path / "more", "gptq", scheme=scheme, resume=True, progress=stop)
    export_checkpoint(TINYLM, tmp_path / "more", "gptq", scheme=Scheme(8, 32))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["more", "out", "whole"]


def test_first_version_keeps_zero_points_above_zero(tmp_path: Path) -> None:
    """Groups without negative weights would have zero point 0, which the first version cannot store."""
    source = tmp_path / "source"
    source.mkdir()
    for path in TINYLM.iterdir():
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            tensors = read_header(path)
            target = tensors["model.layers.0.mlp.up_proj.weight"]
            values = np.abs(array(target).astype(np.float32)).astype(ml_dtypes.bfloat16).tobytes()
            data = data[: target.offset] + values + data[target.offset + len(values) :]
        (source / path.name).write_bytes(data)
    how = Calibration(chunks=2, context=128)
    for method, calibration in (("rtn", None), ("gptq", how)):
        folder = tmp_path / method
        report = export_checkpoint(
            source, folder, "gptq", scheme=Scheme(4, 64, False), method=method, calibration=calibration  # type: ignore[arg-type]
        )  # fmt: skip
        (module,) = (m for m in report.modules if m.name == "model.layers.0.mlp.up_proj")
        # Half a step of the widest group, with 14 steps from 0 up.
        widest = np.abs(
            array(read_header(source / "model.safetensors")[f"{module.name}.weight"]).astype(np.float32)
        ).max()
        assert method != "rtn" or module.max_error <= widest / 14 * 0.51


def test_a_file_of_hessians_gives_the_bytes_of_a_run_without_sequence(tmp_path: Path) -> None:
    scheme, file = Scheme(4, 64, True), tmp_path / "hessians.safetensors"
    _export(tmp_path / "run", "gptq", scheme, "gptq", sequential=False)
    _export(tmp_path / "made", "gptq", scheme, "gptq", sequential=False, hessians=file)
    written = file.read_bytes()
    _export(tmp_path / "read", "gptq", scheme, "gptq", sequential=False, hessians=file)
    assert file.read_bytes() == written
    shards = list((tmp_path / "run").glob("*.safetensors"))
    assert shards
    for path in shards:
        assert (tmp_path / "made" / path.name).read_bytes() == path.read_bytes()
        assert (tmp_path / "read" / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(gg.UsageError, match="sequential=False"):
        _export(tmp_path / "none", "gptq", scheme, "gptq", hessians=file)
    with pytest.raises(gg.FileError, match="these are other Hessians: chunks: 6 there, 5 here"):
        how = Calibration(chunks=5, context=256, sequential=False, hessians=file)
        export_checkpoint(TINYLM, tmp_path / "none", "gptq", scheme=scheme, method="gptq", calibration=how)
    assert not (tmp_path / "none").exists()

"""Importance matrices against those of llama-imatrix (tests/peers/make_imatrix.py made the files)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ggquant as gg
from ggquant.calibration import Statistics, collect_imatrix, default_text, read_statistics, write_statistics
from ggquant.calibration.activity import activities, layer_activities
from ggquant.calibration.collect import Collection, CollectProgress, Run, Settings
from ggquant.calibration.statistics import merged
from runtime_cases import RUNTIME_CASES
from tiny_checkpoints import write

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data/imatrix"
TEXT = DATA / "text.txt"
TINYLM = ROOT / "data/tinylm"
RECORD = json.loads((DATA / "record.json").read_text())

#: Both sides compute in float32 with other orders of additions; a token more or less would show at 1e-3.
TOLERANCE = 1e-5


def assert_same(ours: Statistics, theirs: Statistics, tolerance: float = TOLERANCE) -> None:
    assert sorted(ours.entries) == sorted(theirs.entries)
    assert (ours.chunk_count, ours.chunk_size) == (theirs.chunk_count, theirs.chunk_size)
    for name, entry in ours.entries.items():
        other = theirs.entries[name]
        np.testing.assert_array_equal(entry.counts, other.counts, err_msg=name)
        for mine, reference in zip(entry.rows(), other.rows(), strict=True):
            assert np.linalg.norm(mine - reference) <= tolerance * np.linalg.norm(reference), name


def assert_same_perplexity(result: Collection, record: dict[str, list[str]]) -> None:
    # Theirs is printed with four digits; float32 moves the last of them.
    np.testing.assert_allclose(result.chunk_perplexities, [float(p) for p in record["chunks"]], rtol=2e-6, atol=1e-4)
    assert result.perplexity == pytest.approx(float(record["final"][0]), rel=2e-6, abs=1e-4)
    assert result.perplexity_error == pytest.approx(float(record["final"][1]), rel=2e-5, abs=1e-5)


def mixtral(folder: Path) -> Path:
    return write(RUNTIME_CASES["mixtral"], folder)


def test_bundled_model(tmp_path: Path) -> None:
    output = tmp_path / "imatrix.gguf"
    result = collect_imatrix(TINYLM, [TEXT], output, settings=Settings(n_ctx=128, process_output=True))
    assert_same(read_statistics(output, 128), read_statistics(DATA / "tinylm.imatrix", 128))
    assert_same_perplexity(result, RECORD["tinylm"])
    assert result.paths == [output]
    assert result.gaps.lines() == []
    ours, theirs = gg.open(output), gg.open(DATA / "tinylm.imatrix")
    assert list(ours.metadata) == list(theirs.metadata)
    assert [(t.name, t.shape, t.format) for t in ours.tensors.values()] == [
        (t.name, t.shape, t.format) for t in theirs.tensors.values()
    ]


def test_experts(tmp_path: Path) -> None:
    result = collect_imatrix(mixtral(tmp_path), [TEXT], tmp_path / "i.gguf", settings=Settings(n_ctx=64, chunks=5))
    assert_same(result.statistics, read_statistics(DATA / "mixtral.imatrix", 64))
    assert_same_perplexity(result, RECORD["mixtral"])


def test_experts_in_their_arithmetic(tmp_path: Path) -> None:
    # In bfloat16 their router sees rounded states, and some tokens go to other experts than exact ones would.
    model = gg.convert(mixtral(tmp_path), tmp_path / "bf16.gguf", "BF16").path
    settings = Settings(n_ctx=64, chunks=5)
    theirs = read_statistics(DATA / "mixtral-bf16.imatrix", 64)
    made = collect_imatrix(model, [TEXT], tmp_path / "i.gguf", settings=settings, activations="int8").statistics
    # Sums in other orders move what is rounded to 8 bits after them, here and there by 1 in 256.
    assert_same(made, theirs, 1e-3)
    exact = collect_imatrix(model, [TEXT], settings=settings).statistics
    assert any((entry.counts != theirs.entries[name].counts).any() for name, entry in exact.entries.items())


def test_a_missing_folder_is_found_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(gg.FileError, match="folder does not exist"):
        Run(TINYLM, [TEXT], tmp_path / "none" / "i.gguf", settings=Settings(n_ctx=64))


def test_files_of_both_kinds_are_llama_cpps_own(tmp_path: Path) -> None:
    file = DATA / "mixtral.imatrix"
    write_statistics(tmp_path / "merged.dat", merged([file, file], 512), "dat")
    assert (tmp_path / "merged.dat").read_bytes() == (DATA / "merged.dat").read_bytes()
    write_statistics(tmp_path / "copy.gguf", read_statistics(file, 64))
    assert (tmp_path / "copy.gguf").read_bytes() == file.read_bytes()
    legacy = read_statistics(tmp_path / "merged.dat", 512)
    # The older kind has one count for all experts, in whole chunks; what quantization takes from it is the same.
    ours, theirs = legacy.means(), merged([file, file], 512).means()
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-6)


def test_earlier_files_are_added_to(tmp_path: Path) -> None:
    first = collect_imatrix(mixtral(tmp_path), [TEXT], settings=Settings(n_ctx=64, chunks=2))
    write_statistics(tmp_path / "first.gguf", first.statistics)
    rest = Settings(n_ctx=64, chunks=3, first_chunk=2, ppl=False)
    folder = tmp_path / RUNTIME_CASES["mixtral"].folder
    result = collect_imatrix(folder, [TEXT], tmp_path / "all.gguf", settings=rest, in_files=[tmp_path / "first.gguf"])
    assert result.statistics.datasets == [str(TEXT), str(TEXT)]
    assert_same(result.statistics, read_statistics(DATA / "mixtral.imatrix", 64))
    other = Statistics(64)
    other.add("blk.0.attn_q.weight", np.ones(7), 4)
    with pytest.raises(gg.ImatrixError, match=r"blk\.0\.attn_q\.weight.*different models"):
        result.statistics.merge(other)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_threads_and_memory_change_nothing(threads: int, tmp_path: Path) -> None:
    folder = mixtral(tmp_path)
    settings = Settings(n_ctx=64, chunks=5, process_output=True)
    needs = Run(folder, [TEXT], None, settings=settings).needs
    least = needs.memory_bytes - needs.hidden_bytes
    assert Run(folder, [TEXT], None, settings=settings, memory=least).needs.spills
    one = collect_imatrix(folder, [TEXT], settings=settings, threads=1)
    other = collect_imatrix(folder, [TEXT], settings=settings, threads=threads, memory=least)
    assert one.perplexity == other.perplexity
    for name, entry in one.statistics.entries.items():
        np.testing.assert_array_equal(entry.sums, other.statistics.entries[name].sums, err_msg=name)


def test_hidden_states_that_do_not_fit_go_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ggquant.runtime import hidden

    claimed: list[int] = []
    original = hidden.reserve
    monkeypatch.setattr(hidden, "reserve", lambda fd, nbytes: (claimed.append(nbytes), original(fd, nbytes)))
    array = hidden.allocate((4, 8, 16), limit=100, folder=tmp_path)
    array[:] = 1.5
    assert claimed == [4 * 8 * 16 * 4] and array.sum() == 4 * 8 * 16 * 1.5
    assert list(tmp_path.iterdir()) == []
    hidden.allocate((4, 8, 16), limit=4 * 8 * 16 * 4)
    assert len(claimed) == 1


def test_too_little_memory_is_refused_with_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(gg.UsageError, match=r"needs \d+ MB of memory \(\d+ MB for a layer\), and 1 MB are allowed"):
        collect_imatrix(TINYLM, [TEXT], settings=Settings(n_ctx=64), memory=1_000_000)


class StoppedHereError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 6, 9])
def test_an_interrupted_run_goes_on(after: int, tmp_path: Path) -> None:
    folder, output = mixtral(tmp_path), tmp_path / "i.gguf"
    settings = Settings(n_ctx=64, chunks=6, save_frequency=3)
    whole = collect_imatrix(folder, [TEXT], tmp_path / "whole.gguf", settings=settings)
    seen: list[CollectProgress] = []

    def stop(at: CollectProgress) -> None:
        seen.append(at)
        if len(seen) == after:
            raise StoppedHereError

    with pytest.raises(StoppedHereError):
        collect_imatrix(folder, [TEXT], output, settings=settings, resume=True, progress=stop)
    assert not output.exists()
    assert len(list(tmp_path.glob(".i.gguf.*.calibration"))) == 1
    again: list[CollectProgress] = []
    result = collect_imatrix(
        folder, [TEXT], output, settings=settings, resume=True, overwrite=True, progress=again.append
    )
    # Whole layers are not run again: at most the layer that was interrupted is.
    assert again[0].done > seen[-1].done - 3 * 64
    assert result.chunk_perplexities == whole.chunk_perplexities
    for name in ("gguf", "gguf.at_3", "gguf.at_6"):
        assert (tmp_path / f"i.{name}").read_bytes() == (tmp_path / f"whole.{name}").read_bytes()
    assert list(tmp_path.glob(".*")) == []


def test_nothing_is_left_of_an_interrupted_run_without_resume(tmp_path: Path) -> None:
    folder, before = mixtral(tmp_path), sorted(tmp_path.iterdir())

    def stop(at: CollectProgress) -> None:
        raise StoppedHereError

    with pytest.raises(StoppedHereError):
        collect_imatrix(folder, [TEXT], tmp_path / "i.gguf", settings=Settings(n_ctx=64), progress=stop)
    assert sorted(tmp_path.iterdir()) == before


def test_all_experts_see_every_token_and_nothing_else_changes(tmp_path: Path) -> None:
    folder = mixtral(tmp_path)
    plain = collect_imatrix(folder, [TEXT], settings=Settings(n_ctx=64, chunks=2))
    every = collect_imatrix(folder, [TEXT], settings=Settings(n_ctx=64, chunks=2, all_experts=True))
    assert plain.perplexity == every.perplexity
    for name, entry in every.statistics.entries.items():
        if "_exps" in name:
            assert entry.counts.tolist() == [128] * 4
        else:
            np.testing.assert_array_equal(entry.sums, plain.statistics.entries[name].sums, err_msg=name)


def test_statistics_of_activity_are_llama_imatrix_own() -> None:
    header, *rows = RECORD["statistics"]
    tensors, layers = rows[: rows.index(next(r for r in rows if len(r) == 4))], [r for r in rows if len(r) == 4][1:]
    found = activities(read_statistics(DATA / "mixtral.imatrix"))
    assert len(header) == 13 and len(tensors) == len(found)
    for row, a in zip(sorted(tensors, key=lambda r: (r[1], r[0])), sorted(found, key=lambda a: (a.kind, a.layer)),
                      strict=True):  # fmt: skip
        ours = [a.total, a.smallest, a.largest, a.mean, a.deviation, 100 * a.active, a.columns, a.entropy,
                100 * a.normalized_entropy, 100 * a.outliers, a.similarity]  # fmt: skip
        assert (row[0], row[1]) == (str(a.layer), a.kind)
        # Two or four digits are printed; theirs are float32 sums.
        np.testing.assert_allclose(ours, [float(cell.rstrip("%")) for cell in row[2:]], rtol=1e-5, atol=0.0051)
    for row, layer in zip(layers, layer_activities(found), strict=True):
        ours = [layer.layer, layer.total, 100 * layer.outliers, layer.similarity]
        np.testing.assert_allclose(ours, [float(cell.rstrip("%")) for cell in row], rtol=1e-5, atol=0.0051)


def test_quantize_with_auto_is_quantize_with_what_was_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = replace(default_text(), text=default_text().text[:5000])
    monkeypatch.setattr("ggquant.calibration.collect.default_text", lambda: start)
    collected = collect_imatrix(TINYLM, (), tmp_path / "i.gguf", settings=Settings(ppl=False))
    assert collected.texts == ("ggquant:default.txt",)
    report = gg.convert(TINYLM, tmp_path / "auto.gguf", "IQ2_XXS", imatrix="auto")
    gg.convert(TINYLM, tmp_path / "file.gguf", "IQ2_XXS", imatrix=tmp_path / "i.gguf")
    assert any("ggquant:default.txt" in warning for warning in report.warnings)
    auto, file = gg.open(tmp_path / "auto.gguf"), gg.open(tmp_path / "file.gguf")
    for name, tensor in auto.tensors.items():
        np.testing.assert_array_equal(tensor.read(), file.tensors[name].read(), err_msg=name)

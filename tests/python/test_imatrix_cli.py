"""`ggquant imatrix`: what it prints, writes, and how it exits."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ggquant.calibration import read_statistics
from ggquant.cli import main

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data/imatrix"
TINYLM = ROOT / "data/tinylm"
RECORD = json.loads((DATA / "record.json").read_text())


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["ggquant", "imatrix", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_a_run_prints_what_llama_imatrix_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "i.gguf"
    words = [TINYLM, DATA / "text.txt", "-c", 128, "-o", output, "--chunks", 2]
    assert run(monkeypatch, *words) == 0
    captured = capsys.readouterr()
    values = RECORD["tinylm"]["chunks"]
    assert f"[1]{values[0]},[2]{values[1]},\n" in captured.out
    assert "256 tokens in 2 chunks" in captured.out and "llama, 6 layers: about " in captured.out
    assert captured.out.endswith(f"{output}\n")
    assert "layer" in captured.err or "output" in captured.err
    assert run(monkeypatch, *words) == 2
    assert "exists already; --overwrite replaces it" in capsys.readouterr().err


def test_json_is_all_there_is_on_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "i.dat"
    code = run(
        monkeypatch, TINYLM, DATA / "text.txt", "-c", 64, "-o", output, "--chunks", 2, "--json", "--no-ppl",
        "--output-format", "dat", "--chunk", 1, "--pre", "gpt-2",
    )  # fmt: skip
    assert code == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert captured.err == ""
    assert (facts["tokens"], facts["chunks"], facts["ppl"], facts["paths"]) == (128, 2, None, [str(output)])
    assert facts["tensors"]["blk.0.attn_q.weight"] == [128]
    assert read_statistics(output, 64).chunk_count == 2


def test_earlier_files_are_combined_without_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = DATA / "mixtral.imatrix", tmp_path / "merged.dat"
    words = ["--in-file", file, "--in-file", file, "-o", output, "--output-format", "dat"]
    assert run(monkeypatch, *words) == 0
    assert output.read_bytes() == (DATA / "merged.dat").read_bytes()
    assert run(monkeypatch) == 2
    assert "--in-file" in capsys.readouterr().err


def test_statistics_are_shown_in_a_table_or_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--show-statistics", "--in-file", DATA / "mixtral.imatrix") == 0
    shown = capsys.readouterr().out
    for cells in RECORD["statistics"][1:]:
        if len(cells) == 13:
            # The name of the tensor and its totals; a last digit may differ, since theirs are float32 sums.
            assert any(line.split()[:2] == cells[:2] for line in shown.splitlines()), cells
    assert run(monkeypatch, "--show-statistics", "--in-file", DATA / "mixtral.imatrix", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["tensors"]) == 16 and len(facts["layers"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--chunks", 0], "--chunks 0"),
        (["-c", 4096], "has only"),
        (["--memory", "5M"], "MB are allowed"),
        (["--memory", "much"], "not a size"),
        (["--show-statistics"], "one importance matrix"),
    ],
)
def test_what_cannot_be_is_refused(
    words: list[object],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, TINYLM, DATA / "text.txt", "-o", tmp_path / "i.gguf", *words) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

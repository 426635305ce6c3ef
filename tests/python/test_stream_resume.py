"""Interrupted conversions are taken up again, and end in the same bytes whatever happened meanwhile."""

from pathlib import Path

import pytest

import ggquant as gg

TINYLM = Path(__file__).parents[1] / "data" / "tinylm"


class HaltError(Exception):
    """Raised where a conversion is to end."""


def halt(progress: gg.Progress) -> None:
    if progress.bytes_done > 0:
        raise HaltError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    gg.convert(TINYLM, tmp_path / "in" / "w.gguf", "BF16")
    return tmp_path / "in" / "w.gguf"


@pytest.fixture
def wanted(source: Path, tmp_path: Path) -> bytes:
    return gg.convert(source, tmp_path / "in" / "wanted.gguf", "Q4_K_M").path.read_bytes()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "model.gguf"


def interrupt(source: Path, out: Path) -> Path:
    """Leaves an unfinished conversion and returns its unfinished file."""
    with pytest.raises(HaltError):
        gg.convert(source, out, "Q4_K_M", resume=True, progress=halt, threads=1)
    names = sorted(path.suffix for path in out.parent.iterdir())
    assert names == [".journal", ".part"]
    return next(out.parent.glob(".*.part"))


def finish(source: Path, out: Path) -> gg.ConversionReport:
    report = gg.convert(source, out, "Q4_K_M", resume=True, threads=2)
    assert list(out.parent.iterdir()) == [out]
    return report


def test_what_is_done_is_taken_over(source: Path, out: Path, wanted: bytes) -> None:
    interrupt(source, out)
    report = finish(source, out)
    assert out.read_bytes() == wanted
    assert report.reused_bytes > 0


def test_nothing_stays_unless_asked_for(source: Path, out: Path) -> None:
    with pytest.raises(HaltError):
        gg.convert(source, out, "Q4_K_M", progress=halt)
    assert list(out.parent.iterdir()) == []


def test_damage_to_the_unfinished_file_is_repaired(source: Path, out: Path, wanted: bytes) -> None:
    part = interrupt(source, out)
    data = bytearray(part.read_bytes())
    for at in range(0, len(data), 1000):
        data[at] ^= 0x55
    part.write_bytes(data)
    assert finish(source, out).reused_bytes < len(wanted)
    assert out.read_bytes() == wanted


def test_a_cut_or_damaged_journal_costs_only_time(source: Path, out: Path, wanted: bytes) -> None:
    interrupt(source, out)
    journal = next(out.parent.glob(".*.journal"))
    data = bytearray(journal.read_bytes())
    data[60] ^= 1
    journal.write_bytes(data[: len(data) - 7])
    finish(source, out)
    assert out.read_bytes() == wanted


def test_a_source_that_changed_is_converted_as_it_is_now(source: Path, out: Path) -> None:
    interrupt(source, out)
    data = bytearray(source.read_bytes())
    # The last tensor's low mantissa bits: the header, the length and the plan stay what they were.
    for at in range(len(data) - 4096, len(data), 2):
        data[at] ^= 1
    source.write_bytes(data)
    finish(source, out)
    assert out.read_bytes() == gg.convert(source, source.with_name("new"), "Q4_K_M").path.read_bytes()


def test_other_options_start_anew(source: Path, out: Path) -> None:
    interrupt(source, out)
    report = gg.convert(source, out, "Q5_K_M", resume=True)
    assert report.reused_bytes == 0
    assert list(out.parent.iterdir()) == [out]
    assert out.read_bytes() == gg.convert(source, source.with_name("other"), "Q5_K_M").path.read_bytes()


def test_an_existing_output_is_not_replaced(source: Path, out: Path) -> None:
    out.write_bytes(b"theirs")
    with pytest.raises(gg.FileError, match="exists already"):
        gg.convert(source, out, "Q4_K_M", resume=True)
    assert out.read_bytes() == b"theirs"


def test_two_runs_on_one_output(source: Path, out: Path) -> None:
    def again(progress: gg.Progress) -> None:
        with pytest.raises(gg.FileError, match="another process is writing it"):
            gg.convert(source, out, "Q4_K_M", resume=True)
        with pytest.raises(gg.FileError, match="another process is writing it"):
            gg.convert(source, out, "Q8_0", resume=True)
        raise HaltError

    with pytest.raises(HaltError):
        gg.convert(source, out, "Q4_K_M", resume=True, progress=again)
    finish(source, out)


@pytest.mark.parametrize("resume", [False, True])
def test_what_a_killed_run_left_is_removed(resume: bool, source: Path, out: Path) -> None:
    (out.parent / ".ggquant-model.gguf.Zx81aB.part").write_bytes(b"half")
    other = out.parent / ".ggquant-other.gguf.Zx81aB.part"
    other.write_bytes(b"half of another")
    gg.convert(source, out, "Q4_K_M", resume=resume)
    assert sorted(out.parent.iterdir()) == [other, out]


@pytest.mark.parametrize("resume", [False, True])
def test_a_missing_folder_is_said_of_the_output(resume: bool, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "none" / "model.gguf"
    with pytest.raises(gg.FileError, match="folder") as caught:
        gg.convert(source, target, "Q4_K_M", resume=resume)
    assert caught.value.file == str(target)
    assert ".part" not in str(caught.value)

"""SIGKILL at random moments, then `--resume`; `kill_and_resume.py` runs it for as long as one likes."""

from pathlib import Path

import ggquant as gg
from kill_and_resume import kill_and_resume

DATA = Path(__file__).parents[1] / "data"


def test_killed_conversions_end_in_the_same_bytes(tmp_path: Path) -> None:
    model = gg.convert(DATA / "tinylm", tmp_path / "model.gguf", "BF16").path
    (tmp_path / "out").mkdir()
    words = ["IQ3_M", "--imatrix", str(DATA / "convert" / "imatrix.gguf"), "--threads", "1"]
    tally = kill_and_resume(model, tmp_path / "out", kills=5, words=words)
    assert tally.killed >= 5
    assert tally.left_pieces > 0

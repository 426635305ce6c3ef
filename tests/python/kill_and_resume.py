"""Kills conversions with SIGKILL, after a first piece and at random moments, and takes them up again.

    python tests/python/kill_and_resume.py MODEL [--kills 50] [--variant Q4_K_M] [--imatrix FILE]

Every resumed output must equal that of a conversion that was left in peace, and nothing but the outputs may be left.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Tally:
    """What happened: runs killed, killed after some pieces were done, and again while resuming."""

    killed: int = 0
    left_pieces: int = 0
    killed_twice: int = 0
    finished_first: int = 0


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kill_and_resume(model: Path, folder: Path, *, kills: int, words: list[str], seed: int = 1) -> Tally:
    """Does so in `folder`, which is empty; `words` are the variant and further options.

    Raises:
        AssertionError: a resumed output differs, or something is left.
    """
    rng, tally = random.Random(seed), Tally()
    command = [sys.executable, "-m", "ggquant", "quantize", "--quiet", str(model)]
    second = ["--also", f"Q8_0={folder / 'second.gguf'}"]
    started = time.monotonic()
    subprocess.run([*command, str(folder / "out.gguf"), *words, *second], check=True)
    duration = time.monotonic() - started
    outputs = [folder / "out.gguf", folder / "second.gguf"]
    wanted = [_digest(path) for path in outputs]
    for path in outputs:
        path.unlink()
    # Most of a short run is the start of the interpreter, in which there is nothing to resume. So a run is first killed
    # after a piece, however fast pieces are on this machine, and the one that takes it up at any moment.
    startup = _startup(command, words)
    while tally.killed < kills:
        attempts = 0
        while True:
            # Killed between the two outputs' names, a run leaves one of them in place.
            again = ["--resume", "--overwrite"]
            process = subprocess.Popen([*command, str(folder / "out.gguf"), *words, *second, *again])
            if attempts < 2 and tally.killed < kills:
                if attempts == 0:
                    _wait_for_a_piece(process, folder)
                    time.sleep(rng.uniform(0, max(0.0, duration - startup) / 4))
                else:
                    time.sleep(rng.uniform(startup, max(duration, startup * 1.1)))
                process.send_signal(signal.SIGKILL)
            code = process.wait()
            if code == 0:
                break
            assert code == -signal.SIGKILL, f"exit code {code}"
            tally.killed += 1
            tally.killed_twice += attempts == 1
            tally.left_pieces += _has_pieces(folder)
            attempts += 1
        tally.finished_first += attempts == 0
        assert [_digest(path) for path in outputs] == wanted, f"after {tally.killed} kills an output differs"
        assert sorted(folder.iterdir()) == sorted(outputs), sorted(folder.iterdir())
        for path in outputs:
            path.unlink()
    return tally


def _has_pieces(folder: Path) -> bool:
    # A journal begins with what it belongs to. It may be renamed or gone while one looks.
    for path in folder.glob("*.journal"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > 48:
                return True
    return False


def _wait_for_a_piece(process: subprocess.Popen[bytes], folder: Path) -> None:
    while process.poll() is None and not _has_pieces(folder):
        time.sleep(0.001)


def _startup(command: list[str], words: list[str]) -> float:
    started = time.monotonic()
    subprocess.run([*command, *words, "--dry-run"], check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def main() -> None:
    """The long version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--variant", default="Q4_K_M")
    parser.add_argument("--imatrix", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    words = [given.variant, *([] if given.imatrix is None else ["--imatrix", str(given.imatrix)])]
    with tempfile.TemporaryDirectory(dir=given.model.parent) as name:
        print(kill_and_resume(given.model, Path(name), kills=given.kills, words=words, seed=given.seed))


if __name__ == "__main__":
    main()

"""Several threads at once, progress callbacks that fail, and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ggquant as gg
from convert_cases import CONVERT, TINYLM


def test_everything_may_be_called_from_several_threads(tmp_path: Path) -> None:
    w = np.random.default_rng(5).standard_normal((64, 512), np.float32)
    expected = {name: gg.quantize(w, name) for name in ("Q4_K", "Q6_K", "Q5_1", "BF16")}
    model = tmp_path / "model.gguf"
    gg.convert(TINYLM, model, "Q8_0")
    opened, whole = gg.open(model), model.read_bytes()

    def arrays(turn: int) -> bool:
        return all(gg.quantize(w, name, threads=1 + turn % 3) == q for name, q in expected.items())

    def files(turn: int) -> bool:
        name = list(opened.tensors)[turn]
        return opened.tensors[name].quantized() == gg.open(model).tensors[name].quantized()

    def write(turn: int) -> bool:
        path = tmp_path / f"written-{turn}.gguf"
        with gg.GGUFWriter(path, {"turn": turn}) as writer:
            for name, q in expected.items():
                writer.add(name, q)
        return gg.verify(path) == [] and gg.open(path).metadata["turn"] == turn

    def convert(turn: int) -> bool:
        path = tmp_path / f"converted-{turn}.gguf"
        gg.convert(TINYLM, path, "Q8_0", progress=lambda _: None)
        return path.read_bytes() == whole

    def plan(turn: int) -> bool:
        return gg.plan(TINYLM, "Q4_K_M", imatrix=CONVERT / "imatrix.gguf").total_bytes > 0

    tasks: list[Callable[[int], bool]] = [arrays, files, write, convert, plan]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda turn: tasks[turn % 5](turn // 5), range(20)))


def test_one_writer_may_be_fed_by_several_threads(tmp_path: Path) -> None:
    with gg.GGUFWriter(tmp_path / "out.gguf") as writer, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: writer.add(f"t{n}", np.full((8, 32), n, np.float32)), range(40)))
    tensors = gg.open(tmp_path / "out.gguf").tensors
    assert len(tensors) == 40
    assert all(np.all(tensors[f"t{n}"].dequantize() == n) for n in range(40))


def test_python_goes_on_while_rows_are_encoded() -> None:
    w = np.random.default_rng(6).standard_normal((2048, 1024), np.float32)
    started, done = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        gg.quantize(w, "Q4_K", threads=1)
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    started.wait()
    turns = 0
    while not done.is_set():
        turns += 1
        time.sleep(0.001)
    worker.join()
    assert turns > 5


class StopError(Exception):
    pass


def test_an_exception_in_the_progress_callback_stops_a_conversion(tmp_path: Path) -> None:
    seen = []

    def callback(progress: gg.Progress) -> None:
        seen.append(progress)
        raise StopError

    target = tmp_path / "out.gguf"
    target.write_bytes(b"precious")
    with pytest.raises(StopError):
        gg.convert(TINYLM, target, "Q4_K_M", progress=callback, overwrite=True)
    assert len(seen) == 1
    assert target.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


def test_an_exception_in_the_progress_callback_stops_split_and_merge(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    gg.convert(TINYLM, model, "Q8_0")

    def callback(_: int) -> None:
        raise StopError

    with pytest.raises(StopError):
        gg.split(model, tmp_path / "part", max_tensors=20, progress=callback)
    shards = gg.split(model, tmp_path / "part", max_tensors=20)
    with pytest.raises(StopError):
        gg.merge(shards[0], tmp_path / "merged.gguf", progress=callback)
    assert sorted(tmp_path.iterdir()) == sorted([model, *shards])


def test_progress_counts_to_the_end_on_the_calling_thread(tmp_path: Path) -> None:
    seen: list[tuple[gg.Progress, int]] = []
    gg.convert(TINYLM, tmp_path / "a.gguf", "Q4_0", progress=lambda p: seen.append((p, threading.get_ident())))
    assert {thread for _, thread in seen} == {threading.get_ident()}
    done = [p.bytes_done for p, _ in seen]
    assert done == sorted(done) and done[-1] == seen[-1][0].bytes_total
    assert seen[-1][0].tensors_total == 57


#: Starts long work, and says so once it is under way.
QUANTIZE = """
import sys, threading, numpy as np, ggquant as gg
w = np.random.default_rng(0).standard_normal((1 << 14, 4096), np.float32)
threading.Timer(0.3, lambda: print("started", flush=True)).start()
try:
    gg.quantize(w, "IQ2_S", imatrix=np.ones(4096))
except KeyboardInterrupt:
    sys.exit(77)
"""
CONVERT_SLOWLY = """
import sys, ggquant as gg
try:
    gg.convert(sys.argv[1], sys.argv[2], "IQ2_S", imatrix=sys.argv[3], threads=1,
               progress=lambda p: print("started", flush=True))
except KeyboardInterrupt:
    sys.exit(77)
"""


@pytest.fixture
def heeded_interrupt() -> Iterator[None]:
    """Lets child processes hear SIGINT, which they ignore if a shell has started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded_interrupt")
@pytest.mark.parametrize("kind", ["quantize", "convert", "command", "terminated"])
def test_ctrl_c_stops_the_work_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    target, imatrix = tmp_path / "out.gguf", CONVERT / "imatrix.gguf"
    command = [sys.executable, "-m", "ggquant", "quantize", TINYLM, target, "IQ2_S", "1", "--imatrix", imatrix]
    words = {
        "quantize": [sys.executable, "-c", QUANTIZE],
        "convert": [sys.executable, "-c", CONVERT_SLOWLY, TINYLM, target, imatrix],
    }.get(kind, command)
    with subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        if words is command:
            while not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*.part")):
                assert process.poll() is None
                time.sleep(0.01)
        else:
            assert process.stdout.readline() == b"started\n"
        process.send_signal(signal.SIGTERM if kind == "terminated" else signal.SIGINT)
        sent = time.monotonic()
        process.wait(timeout=30)
        took = time.monotonic() - sent
        said = process.stderr.read().decode()
    if words is command:
        assert process.returncode == 130
        assert said.splitlines()[-1] == "ggquant: error: interrupted; nothing was left behind"
        assert "Traceback" not in said
    else:
        assert process.returncode == 77, said
    # A second is promised; a busy machine may take longer to schedule it, but never as long as the work itself.
    assert took < 10
    assert not list(tmp_path.iterdir())


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, numpy; before = set(sys.modules); import ggquant; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"ggquant", "numpy"}

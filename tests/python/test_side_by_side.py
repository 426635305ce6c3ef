"""Pieces of work side by side: in order, on the right threads, and over at once when something goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from ggquant.runtime.side_by_side import at_once, side_by_side

#: Nothing here takes long; only a defect makes a test wait for it.
_PATIENCE = 20.0


def _run(work: Callable[[int], int], count: int, threads: int, done: Callable[[int], object]) -> threading.Event:
    halt = threading.Event()
    side_by_side(work, range(count), done, threads=threads, halt=halt)
    return halt


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
def test_results_come_in_order_on_the_thread_that_asked(threads: int, count: int) -> None:
    seen: list[int] = []
    where = set()

    def done(result: int) -> None:
        seen.append(result)
        where.add(threading.get_ident())

    _run(lambda item: item * item, count, threads, done)
    assert seen == [item * item for item in range(count)]
    assert where <= {threading.get_ident()}


def test_two_run_at_a_time_but_one_with_one_thread() -> None:
    meeting = threading.Barrier(2)

    def meet(item: int) -> int:
        meeting.wait(_PATIENCE)
        return item

    _run(meet, 6, 2, lambda _: None)
    alone: list[int] = []
    _run(lambda _: threading.get_ident(), 3, 1, alone.append)
    assert set(alone) == {threading.get_ident()}
    assert at_once(1) == 1
    assert at_once(64) == 2


def test_the_first_error_in_order_is_raised() -> None:
    second_failed = threading.Event()

    def work(item: int) -> int:
        if item == 1:
            second_failed.set()
            raise KeyError("second")
        assert second_failed.wait(_PATIENCE)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        _run(work, 2, 2, lambda _: None)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_ends_what_is_under_way(error: type[BaseException]) -> None:
    halt = threading.Event()
    halted = []

    def work(item: int) -> int:
        if item > 0:
            halted.append(halt.wait(_PATIENCE))
        return item

    def done(_: int) -> None:
        raise error

    with pytest.raises(error):
        side_by_side(work, range(50), done, threads=2, halt=halt)
    assert 1 <= len(halted) <= 2
    assert all(halted)
    assert not halt.is_set()

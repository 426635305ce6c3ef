"""Pieces of a text go through a model two at a time: while one of them is between two products, the other has work for
all threads.

Both share one pool of threads. With one piece at a time its threads stood still for a third of a run: at the end of
each product, while Python prepares the next, and in numpy, which uses one.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: A third one fills no gap that two leave, and takes memory.
_AT_ONCE = 2


class Halted(Exception):  # noqa: N818 - no error: nobody waits for the result any more
    """Ends a piece of work whose result nobody waits for any more."""


def at_once(threads: int | None) -> int:
    """How many pieces go through a model at a time."""
    return min(_AT_ONCE, threads or os.cpu_count() or 1)


def side_by_side(
    work: Callable[[T], R],
    items: Iterable[T],
    done: Callable[[R], object],
    *,
    threads: int | None,
    halt: threading.Event,
) -> None:
    """Calls `done(work(item))` for every item, in their order and on this thread; `work` runs ahead on others.

    What `work` makes must not depend on other items, and it must not change what they see.

    Args:
        work: runs on some other thread, or on this one where there is nothing to be gained.
        items: what to work on.
        done: gets the results.
        threads: number of threads that the work itself uses, None for one per core.
        halt: is set while work has to end early because of an error or an interrupt; long work looks at it.

    Raises:
        Whatever `work` or `done` raise, for the first item for which they do.
    """
    todo = list(items)
    count = min(at_once(threads), len(todo))
    if count <= 1:
        for item in todo:
            done(work(item))
        return
    pool = ThreadPoolExecutor(count, thread_name_prefix="ggquant")
    waiting: deque[Future[R]] = deque()
    try:
        for item in todo:
            waiting.append(pool.submit(work, item))
            # One more than can run, so that none waits for `done`.
            if len(waiting) > count:
                done(waiting.popleft().result())
        while waiting:
            done(waiting.popleft().result())
    except BaseException:
        halt.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        halt.clear()

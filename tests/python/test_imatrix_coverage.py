"""What is said about an importance matrix before it is used."""

import numpy as np
import pytest

import ggquant as gg
from ggquant.imatrix import coverage

NAME = "blk.0.ffn_up_exps.weight"
ROW = np.array([0.5, 2.0, 1.0, 0.25], np.float32)
ONES = np.ones(4, np.float32)


def said(experts: list[np.ndarray], counts: list[float] | None) -> list[str]:
    return coverage(NAME, np.stack(experts), None if counts is None else np.array(counts, np.float32))


def test_nothing_is_said_of_what_is_whole() -> None:
    assert said([ROW, ROW], [100, 32]) == []
    assert said([ROW], [1]) == []
    assert said([ROW, ROW], None) == []


def test_unseen_and_hardly_seen_experts_are_told_apart_by_counts() -> None:
    unseen, few = said([ONES, ROW, ROW, ONES], [0, 31, 500, 500])
    assert NAME in unseen and "1 of 4 experts were never seen (0)" in unseen
    assert NAME in few and "1 of 4 experts were seen fewer than 32 times (1)" in few


def test_without_counts_ones_are_what_stands_for_no_statistics() -> None:
    (unseen,) = said([ROW, ONES, ROW, ONES], None)
    assert "2 of 4 experts were never seen (1, 3)" in unseen


def test_zeros_are_named() -> None:
    assert said([0 * ROW, 0 * ROW], [5, 5]) == [f"tensor '{NAME}': all its importances are zero"]
    (zeros,) = said([0 * ROW, ROW], [100, 100])
    assert "1 of 2 experts have only zeros for importances (0)" in zeros


@pytest.mark.parametrize("value", [-1e-30, np.nan, np.inf])
def test_values_that_are_no_mean_squares_are_refused(value: float) -> None:
    with pytest.raises(gg.ImatrixError, match=rf"entry 2 of '{NAME}'"):
        gg.load_imatrix({NAME: np.array([1, 0, value, 1], np.float32)})

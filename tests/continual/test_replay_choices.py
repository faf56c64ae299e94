"""What replay memories choose by: fair shares, and herding against a slow twin."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pvision.continual.replay import herding_order
from pvision.continual.replay.class_balanced import fair_shares


@given(available=st.lists(st.integers(0, 30), max_size=8), size=st.integers(0, 60))
def test_fair_shares_fill_what_they_can_and_differ_by_one(available: list[int], size: int) -> None:
    shares = fair_shares(np.array(available, dtype=np.int64), size)
    assert shares.sum() == min(size, sum(available))
    most = max(shares, default=0)
    assert all(min(most - 1, have) <= share <= have for share, have in zip(shares, available, strict=True))


def slow_herding(rows: np.ndarray, count: int) -> list[int]:
    """iCaRL's algorithm 4 as it is printed."""
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    mean, chosen = rows.mean(0), list[int]()
    for k in range(1, count + 1):
        distances = [
            np.inf if i in chosen else np.linalg.norm(mean - (rows[i] + rows[chosen].sum(0)) / k)
            for i in range(len(rows))
        ]
        chosen.append(next(i for i, distance in enumerate(distances) if distance <= min(distances) + 1e-9))
    return chosen


@given(n=st.integers(1, 30), d=st.integers(2, 8), seed=st.integers(0, 1000), data=st.data())
def test_herding_equals_its_slow_twin(n: int, d: int, seed: int, data: st.DataObject) -> None:
    rows = np.random.default_rng(seed).normal(size=(n, d)) * 10
    count = data.draw(st.integers(0, n))
    assert herding_order(rows, count).tolist() == slow_herding(rows, count)


def test_rows_of_zeros_do_not_break_herding() -> None:
    assert sorted(herding_order(np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 2.0]]), 3).tolist()) == [0, 1, 2]

"""Validation records of streams in which records return: held out once, held out for good."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pvision.continual.experience import Experience
from pvision.continual.scenarios import hold_out, hold_out_for_good

RECORDS = 30


def experiences(sets):
    return [
        Experience(index, "learn", str(index), (index,), (index,), np.array(sorted(chosen), dtype=np.int64))
        for index, chosen in enumerate(sets)
    ]


def leaked(divided):
    trained = {int(n) for one in divided for n in one.train}
    return trained & {int(n) for one in divided for n in one.val}


SETS = st.lists(st.sets(st.integers(0, RECORDS - 1), min_size=1), min_size=1, max_size=4)


@given(sets=SETS, fraction=st.floats(0, 0.9), seed=st.integers(0, 2**40))
def test_no_record_is_both_trained_and_held_out_in_any_experience(sets, fraction, seed):
    divided = hold_out_for_good(experiences(sets), fraction=fraction, seed=seed)
    assert not leaked(divided)
    for one, records in zip(divided, sets, strict=True):
        assert sorted([*one.train, *one.val]) == sorted(records)
        assert (np.diff(one.train) > 0).all()
        assert (np.diff(one.val) > 0).all()
    assert len(divided[0].val) == min(round(len(sets[0]) * fraction), len(sets[0]) - 1)


def test_later_experiences_bring_the_share_to_the_fraction():
    divided = hold_out_for_good(experiences([range(100), range(50, 250)]), fraction=0.2, seed=0)
    assert [len(one.val) for one in divided] == [20, 40]


def test_drawing_for_each_experience_alone_would_leak():
    labels = np.zeros(RECORDS, dtype=np.int64)
    returning = [
        Experience(index, "learn", str(index), (0,), (0,), np.arange(RECORDS, dtype=np.int64)) for index in range(2)
    ]
    assert leaked(hold_out(returning, labels, fraction=0.5, seed=0))
    assert not leaked(hold_out_for_good(returning, fraction=0.5, seed=0))


def test_the_draw_is_a_function_of_the_seed():
    def drawn(seed):
        return [one.val.tolist() for one in hold_out_for_good(experiences([range(30)] * 2), fraction=0.4, seed=seed)]

    assert drawn(3) == drawn(3) != drawn(4)

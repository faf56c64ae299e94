"""Validation records and requests to forget: what is held out, what is forgotten when, what cannot be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvision.continual.scenarios import (
    ClassIncremental,
    DomainIncremental,
    ForgetRequest,
    StreamLabels,
    hold_out,
    insert_forgetting,
)
from pvision.errors import ConfigError


def labels_of(classes, per_class=12, domains=None):
    """Labels that go round, and domains that go round more slowly."""
    train, test = np.arange(classes * per_class) % classes, np.arange(classes * 4) % classes
    if domains is None:
        return StreamLabels(train, test, classes)
    names = [[domains[place // classes % len(domains)] for place in range(len(labels))] for labels in (train, test)]
    return StreamLabels(train, test, classes, *names)


@given(fraction=st.floats(0.05, 0.9), seed=st.integers(0, 2**63 - 1))
def test_held_out_records_are_stratified_and_leave_the_training_records(fraction, seed):
    labels = labels_of(6, per_class=20)
    whole = ClassIncremental(experiences=3).experiences(labels)
    held = hold_out(whole, labels.train, fraction=fraction, seed=seed)
    for before, after in zip(whole, held, strict=True):
        assert sorted([*after.train, *after.val]) == before.train.tolist()
        counts = [int((labels.train[after.val] == label).sum()) for label in before.classes]
        assert counts == [min(round(20 * fraction), 19)] * 2
    again = hold_out(whole, labels.train, fraction=fraction, seed=seed)
    assert [e.val.tolist() for e in held] == [e.val.tolist() for e in again]


def test_another_seed_holds_out_other_records():
    labels = labels_of(6, per_class=20)
    whole = ClassIncremental(experiences=3).experiences(labels)
    first, second = (hold_out(whole, labels.train, fraction=0.5, seed=seed) for seed in (1, 2))
    assert [e.val.tolist() for e in first] != [e.val.tolist() for e in second]
    assert hold_out(whole, labels.train, fraction=0, seed=1) == whole


NAMES = [f"train/{position}" for position in range(120)]


def events(*requests, fraction=0.0):
    labels = labels_of(10)
    stream = hold_out(ClassIncremental(experiences=5).experiences(labels), labels.train, fraction=fraction, seed=0)
    return insert_forgetting(stream, requests, labels.train, NAMES), labels


def test_a_class_is_forgotten_where_it_was_asked_for():
    stream, labels = events(ForgetRequest(after=1, classes=[2, 0]))
    assert [e.kind for e in stream] == ["learn", "learn", "forget", "learn", "learn", "learn"]
    assert [e.index for e in stream] == list(range(6))
    assert (stream[2].classes, stream[2].new_classes, stream[2].name) == ((2, 0), (), "forget classes 2, 0")
    assert stream[2].train.tolist() == np.flatnonzero(np.isin(labels.train, [0, 2])).tolist()
    assert not len(stream[2].test)


def test_records_are_forgotten_by_name():
    stream, _ = events(ForgetRequest(after=0, records=["train/11", "train/0"]))
    assert stream[1].train.tolist() == [0, 11]
    assert stream[1].classes == ()
    assert stream[1].name == "forget 2 records"


def test_what_is_forgotten_includes_what_was_held_out():
    stream, labels = events(ForgetRequest(after=0, classes=[1]), fraction=0.25)
    assert sorted([*stream[1].train, *stream[1].val]) == np.flatnonzero(labels.train == 1).tolist()
    assert len(stream[1].val) == 3
    assert set(stream[1].val) <= set(stream[0].val)


def test_two_requests_keep_their_order_and_do_not_share_records():
    stream, labels = events(
        ForgetRequest(after=0, records=["train/0"]),
        ForgetRequest(after=0, classes=[0]),
        ForgetRequest(after=4, classes=[9]),
    )
    assert [e.kind for e in stream] == ["learn", "forget", "forget", "learn", "learn", "learn", "learn", "forget"]
    assert stream[2].train.tolist() == np.flatnonzero(labels.train == 0)[1:].tolist()


def test_a_forgotten_class_can_be_learned_again_from_other_records():
    labels = labels_of(2, domains=["a", "b"])
    learned = DomainIncremental().experiences(labels)
    requests = [ForgetRequest(after=0, classes=[1]), ForgetRequest(after=1, classes=[1])]
    stream = insert_forgetting(learned, requests, labels.train, NAMES[: len(labels.train)])
    assert [e.kind for e in stream] == ["learn", "forget", "learn", "forget"]
    assert not set(stream[1].train) & set(stream[3].train)
    assert set(stream[3].train) <= set(stream[2].train)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"after": 5, "classes": [0]}, "after experience 5, but the stream has the experiences 0 to 4"),
        ({"after": 0, "classes": [2]}, "names class 2, of which nothing is learned"),
        ({"after": 4, "classes": [10]}, "names class 10"),
        ({"after": 0, "records": ["train/120"]}, "names train/120, which the training set does not have"),
        ({"after": 0, "records": ["train/2"]}, "names 'train/2', which is not learned"),
    ],
)
def test_what_cannot_be_forgotten_is_refused_by_name(request_, message):
    with pytest.raises(ConfigError, match=message):
        events(ForgetRequest(**request_))


def test_nothing_is_forgotten_twice():
    with pytest.raises(ConfigError, match="class 0, of which nothing is learned, or all forgotten, after experience 2"):
        events(ForgetRequest(after=0, classes=[0]), ForgetRequest(after=2, classes=[0]))
    with pytest.raises(ConfigError, match="'train/0', which is not learned, or forgotten already"):
        events(ForgetRequest(after=0, classes=[0]), ForgetRequest(after=0, records=["train/0"]))


def test_a_held_out_record_was_never_learned():
    stream, _ = events(fraction=0.25)
    name = NAMES[stream[0].val[0]]
    with pytest.raises(ConfigError, match=f"'{name}', which was held out for validation"):
        events(ForgetRequest(after=0, records=[name]), fraction=0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"after": -1, "classes": [0]}, r"forget\.after must be"),
        ({"after": 0}, "names no classes and no records"),
        ({"after": 0, "classes": [-1]}, r"forget\.classes must be"),
        ({"after": 0, "records": "train/0"}, "must be a list of names, but the text 'train/0' came"),
    ],
)
def test_a_request_that_asks_for_nothing_sensible_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ForgetRequest(**arguments)

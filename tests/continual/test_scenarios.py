"""How data sets become streams: every record comes once, orders are those of the field, wrong settings are named."""

import inspect
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvision.continual.experience import seen_classes
from pvision.continual.scenarios import (
    Blurry,
    ClassIncremental,
    DomainIncremental,
    LongTailed,
    Part,
    Scenario,
    StreamLabels,
    TaskIncremental,
)
from pvision.errors import ConfigError, DataError


def labels_of(classes, per_class=12, tests=4, domains=None):
    """Labels that go round, and domains that go round more slowly."""
    train, test = np.arange(classes * per_class) % classes, np.arange(classes * tests) % classes
    if domains is None:
        return StreamLabels(train, test, classes)
    names = [[domains[place // classes % len(domains)] for place in range(len(labels))] for labels in (train, test)]
    return StreamLabels(train, test, classes, *names)


def together(experiences, part):
    return sorted(np.concatenate([getattr(experience, part) for experience in experiences]).tolist())


@st.composite
def class_splits(draw):
    increments = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    return increments, draw(st.permutations(range(sum(increments))))


@given(class_splits())
def test_every_class_and_every_record_comes_exactly_once(split):
    increments, order = split
    labels = labels_of(sum(increments), per_class=3, tests=2)
    stream = ClassIncremental(increments=increments, class_order=order).experiences(labels)
    assert [len(experience.classes) for experience in stream] == increments
    assert [label for experience in stream for label in experience.classes] == order
    assert together(stream, "train") == list(range(len(labels.train)))
    assert together(stream, "test") == list(range(len(labels.test)))
    for index, experience in enumerate(stream):
        assert (experience.index, experience.kind) == (index, "learn")
        assert experience.new_classes == experience.classes
        assert set(labels.train[experience.train].tolist()) == set(experience.classes)
        assert set(labels.test[experience.test].tolist()) == set(experience.classes)
        assert (np.diff(experience.train) > 0).all()


def test_seed_1993_gives_the_order_of_the_fields_code():
    stream = ClassIncremental(experiences=10, class_order_seed=1993).experiences(labels_of(100, per_class=1, tests=1))
    assert stream[0].classes == (68, 56, 78, 8, 23, 84, 90, 65, 74, 76)
    np.random.seed(1993)  # noqa: NPY002  # what that code does
    assert list(seen_classes(stream)) == np.random.permutation(100).tolist()  # noqa: NPY002  # likewise


def test_the_natural_order_is_the_default():
    assert seen_classes(ClassIncremental(experiences=3).experiences(labels_of(9))) == tuple(range(9))


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"experiences": 5}, [2, 2, 2, 2, 2]),
        ({"experiences": 3}, [4, 3, 3]),
        ({"experiences": 1}, [10]),
        ({"experiences": 4, "base_classes": 4}, [4, 2, 2, 2]),
        ({"experiences": 3, "base_classes": 5}, [5, 3, 2]),
        ({"experiences": 1, "base_classes": 10}, [10]),
        ({"increments": [1, 7, 2]}, [1, 7, 2]),
    ],
)
def test_class_counts(settings, sizes):
    assert [len(e.classes) for e in ClassIncremental(**settings).experiences(labels_of(10))] == sizes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either experiences .* neither came"),
        ({"experiences": 2, "increments": [5, 5]}, "both came"),
        ({"increments": [5, 5], "base_classes": 5}, "put it first in the list"),
        ({"increments": [5, 4]}, "9 classes together, but the data set has 10"),
        ({"increments": [10, 0]}, "increments must be a whole number of at least 1, but 0 came"),
        ({"experiences": 0}, "experiences must be a whole number of at least 1, but 0 came"),
        ({"experiences": 11}, "11 experiences cannot share 10 classes"),
        ({"experiences": 4, "base_classes": 8}, "3 experiences cannot share 2 classes"),
        ({"experiences": 1, "base_classes": 4}, "one experience has all 10 classes, but base_classes is 4"),
        ({"experiences": 2, "base_classes": 11}, "base_classes is 11, but the data set has 10"),
        ({"experiences": 2, "class_order": [0, 1], "class_order_seed": 1}, "class_order or class_order_seed"),
        ({"experiences": 2, "class_order": [0, 0, *range(2, 10)]}, "names the classes 0 twice"),
        ({"experiences": 2, "class_order": [10, *range(1, 10)]}, "names 10, but the labels run from 0 to 9"),
        ({"experiences": 2, "class_order": list(range(9))}, "leaves out the classes 9"),
        ({"experiences": 2, "class_order": ["a"]}, "class_order must be a whole number"),
        ({"experiences": 2, "class_order_seed": -1}, "class_order_seed must be a whole number of at least 0"),
        ({"experiences": 2, "class_order_seed": 2**32}, "class_order_seed must be below"),
    ],
)
def test_class_settings_that_do_not_fit_are_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        ClassIncremental(**settings).experiences(labels_of(10))


def test_experiences_are_named_by_their_classes():
    names = [e.name for e in ClassIncremental(increments=[1, 3, 6]).experiences(labels_of(10))]
    assert names == ["class 0", "classes 1, 2, 3", "6 classes: 4, 5, 6, 7, …"]


def test_task_incremental_is_the_same_split_with_a_hint():
    labels = labels_of(10)
    mine, other = (kind(experiences=5, class_order_seed=3) for kind in (TaskIncremental, ClassIncremental))
    assert (mine.task_aware, other.task_aware) == (True, False)
    for left, right in zip(mine.experiences(labels), other.experiences(labels), strict=True):
        assert left.classes == right.classes
        assert left.train.tolist() == right.train.tolist()


def test_domains_come_one_by_one_with_all_classes():
    labels = labels_of(4, domains=["photo", "sketch", "art"])
    stream = DomainIncremental(order=["sketch", "art", "photo"]).experiences(labels)
    assert [(e.name, e.domain) for e in stream] == [(name, name) for name in ("sketch", "art", "photo")]
    assert [e.classes for e in stream] == [(0, 1, 2, 3)] * 3
    assert [e.new_classes for e in stream] == [(0, 1, 2, 3), (), ()]
    assert together(stream, "train") == list(range(len(labels.train)))
    assert together(stream, "test") == list(range(len(labels.test)))
    assert {labels.train_domains[place] for place in stream[0].train} == {"sketch"}
    assert [e.name for e in DomainIncremental().experiences(labels)] == ["art", "photo", "sketch"]
    assert DomainIncremental().evaluates == "all"


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (["a", "a", "b"], "names a twice"),
        (["a", "b", "c"], "names c, but the domains are a, b"),
        (["a"], "leaves out b"),
    ],
)
def test_a_wrong_order_of_domains_is_refused(order, message):
    with pytest.raises(ConfigError, match=message):
        DomainIncremental(order=order).experiences(labels_of(2, domains=["a", "b"]))


def test_a_set_without_domains_has_no_domain_incremental_stream():
    with pytest.raises(ConfigError, match="records have domains, but this one has none"):
        DomainIncremental().experiences(labels_of(2))


def test_a_domain_without_test_records_is_refused():
    labels = StreamLabels(np.array([0, 1]), np.array([0, 1]), 2, ["a", "b"], ["a", "a"])
    with pytest.raises(DataError, match="domains b have training or test records only"):
        DomainIncremental().experiences(labels)


@given(
    experiences=st.integers(1, 4),
    disjoint=st.sampled_from([0.0, 0.5, 1.0]),
    blurry=st.floats(0, 1),
    stochastic=st.booleans(),
    seed=st.integers(0, 99),
)
def test_blurry_streams_show_every_record_once(experiences, disjoint, blurry, stochastic, seed):
    labels = labels_of(12, per_class=10)
    scenario = Blurry(
        experiences=experiences,
        disjoint_fraction=disjoint,
        blurry_fraction=blurry,
        stochastic=stochastic,
        seed=seed,
    )
    stream = scenario.experiences(labels)
    assert together(stream, "train") == list(range(len(labels.train)))
    assert together(stream, "test") == list(range(len(labels.test)))
    again = scenario.experiences(labels)
    assert [e.train.tolist() for e in stream] == [e.train.tolist() for e in again]


def test_the_blurry_fraction_leaves_home_and_disjoint_classes_stay():
    labels = labels_of(10, per_class=100)
    stream = Blurry(experiences=5, disjoint_fraction=0.4, blurry_fraction=0.3, seed=1).experiences(labels)
    counts = np.stack([np.bincount(labels.train[e.train], minlength=10) for e in stream])
    home = {int(label): place for place, e in enumerate(stream) for label in np.unique(labels.test[e.test])}
    at_home = np.array([counts[home[label], label] for label in range(10)])
    assert sorted(at_home == 100) == [False] * 6 + [True] * 4
    assert all(70 <= count < 100 for count in at_home[at_home < 100])
    # What left its home is dealt out equally: 30 records of each of the 6 blurry classes, to 5 experiences.
    homes = [sum(home[label] == place for label in range(10)) for place in range(5)]
    blurry_homes = [sum(home[label] == place and at_home[label] < 100 for label in range(10)) for place in range(5)]
    assert [int(count.sum()) for count in counts] == [
        100 * all_ - 30 * some + 6 * 30 // 5 for all_, some in zip(homes, blurry_homes, strict=True)
    ]


def test_i_blurry_divides_classes_equally_and_si_blurry_does_not():
    labels = labels_of(40)
    sizes = {
        stochastic: [
            len(np.unique(labels.test[e.test]))
            for e in Blurry(experiences=4, blurry_fraction=0.0, stochastic=stochastic, seed=2).experiences(labels)
        ]
        for stochastic in (False, True)
    }
    assert sizes[False] == [10, 10, 10, 10]
    assert len(set(sizes[True])) > 1
    assert sum(sizes[True]) == 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"experiences": 11}, "11 experiences cannot share 10 classes"),
        ({"experiences": 2, "disjoint_fraction": 1.5}, "disjoint_fraction must be a number from 0 to 1, but 1.5"),
        ({"experiences": 2, "blurry_fraction": 50}, "blurry_fraction .* its percentage"),
        ({"experiences": 2, "blurry_fraction": float("nan")}, "blurry_fraction must be"),
        ({"experiences": 2, "seed": -1}, "Blurry.seed must be"),
    ],
)
def test_blurry_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Blurry(**settings).experiences(labels_of(10))


def test_long_tailed_sizes_fall_exponentially_along_the_stream():
    labels = labels_of(10, per_class=100)
    inner = ClassIncremental(experiences=5, class_order_seed=7)
    stream = LongTailed(scenario=inner, imbalance=0.01, order="ordered").experiences(labels)
    counts = np.bincount(labels.train[together(stream, "train")], minlength=10)
    expected = [max(1, int(100 * 0.01 ** (place / 9))) for place in range(10)]
    assert [int(counts[label]) for label in seen_classes(stream)] == expected
    assert together(stream, "test") == list(range(len(labels.test)))


def test_a_shuffled_long_tail_has_the_same_sizes_in_another_order():
    labels = labels_of(10, per_class=100)
    counts = {}
    for order in ("ordered", "shuffled"):
        stream = LongTailed(scenario=ClassIncremental(experiences=5), imbalance=0.1, order=order, seed=3).experiences(
            labels
        )
        counts[order] = np.bincount(labels.train[together(stream, "train")], minlength=10).tolist()
    assert counts["ordered"] != counts["shuffled"]
    assert sorted(counts["ordered"]) == sorted(counts["shuffled"])


def test_a_long_tail_is_what_its_scenario_is():
    assert LongTailed(scenario=TaskIncremental(experiences=2)).task_aware
    assert LongTailed(scenario=DomainIncremental()).evaluates == "all"
    domains = labels_of(4, per_class=60, domains=["a", "b"])
    assert len(LongTailed(scenario=DomainIncremental(), imbalance=0.5).experiences(domains)) == 2
    with pytest.raises(ConfigError, match=r"LongTailed\.imbalance must be"):
        LongTailed(scenario=DomainIncremental(), imbalance=0)
    with pytest.raises(ConfigError, match=r"LongTailed\.order must be one of"):
        LongTailed(scenario=DomainIncremental(), order="sorted")


class Fixed(Scenario):
    """A scenario whose parts a test decides."""

    def __init__(self, parts):
        self.fixed = parts

    def parts(self, labels):
        return self.fixed

    def settings(self):
        return {}


def part(name, classes, train, test):
    return Part(name, classes, np.array(train, np.int64), np.array(test, np.int64))


LABELS = StreamLabels(np.array([0, 0, 1, 1]), np.array([0, 1]), 2)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "makes no experience"),
        ([part("a", (0, 1), [0, 2], [0]), part("b", (), [], [1])], "Experience 'b' has no training records"),
        ([part("a", (0, 1), [0, 2], [])], "Experience 'a' has no test records"),
        ([part("a", (0,), [0], [0]), part("a", (1,), [2], [1])], "The experiences a come twice"),
        ([part("a", (0,), [0], [0]), part("b", (0, 1), [1, 2], [1])], "classes 0 of experience 'b' came before"),
        ([part("a", (0,), [0], [0]), part("b", (0,), [0], [1])], "train records at 0 come twice"),
        ([part("a", (0,), [0], [0]), part("b", (1,), [2], [0])], "test records at 0 come twice"),
        ([part("a", (0,), [0], [0])], "the classes 1 come in no experience"),
        ([part("a", (0,), [0, 2], [0, 1])], "announces the classes 0, but its training records have 0, 1"),
    ],
)
def test_parts_that_make_no_stream_are_refused_by_name(parts, message):
    with pytest.raises((ConfigError, DataError), match=message):
        Fixed(parts).experiences(LABELS)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 1], [0, 2], "label of test record 1 is 2, but labels run from 0 to 1"),
        ([0, -1], [0], "label of train record 1 is -1"),
        ([0, 0], [0, 1], "1 test records have the labels 1, which no training record"),
        ([0, 0], [0], "The classes 1 of 2 have no training record"),
        ([], [0], "There are no train records"),
        ([0, 1], [], "There are no test records"),
        ([0.0, 1.0], [0], "train labels must be one row of whole numbers, but float64"),
        ([[0], [1]], [0], r"of shape \(2, 1\)"),
    ],
)
def test_labels_that_contradict_each_other_are_refused(train, test, message):
    with pytest.raises(DataError, match=message):
        StreamLabels(np.array(train), np.array(test), 2)


def test_domains_that_do_not_go_with_the_labels_are_refused():
    ones = np.array([0, 1])
    with pytest.raises(DataError, match="or for neither"):
        StreamLabels(ones, ones, 2, ["a", "b"])
    with pytest.raises(DataError, match="1 domains for 2 test records"):
        StreamLabels(ones, ones, 2, ["a", "b"], ["a"])


@pytest.mark.parametrize(
    "scenario",
    [
        ClassIncremental(experiences=2, class_order_seed=1993),
        TaskIncremental(increments=[5, 5], class_order=list(range(10))),
        DomainIncremental(order=["a"]),
        Blurry(experiences=3),
        LongTailed(scenario=ClassIncremental(experiences=2)),
    ],
)
def test_settings_are_the_constructors_arguments(scenario):
    settings = scenario.settings()
    assert list(settings) == list(inspect.signature(type(scenario)).parameters)
    assert json.loads(json.dumps(settings)) == settings
    if not isinstance(scenario, LongTailed):
        assert type(scenario)(**settings).settings() == settings
    assert type(scenario).__name__ in repr(scenario)

"""Class-incremental segmentation: which images and labels an experience shows, in each setting and class order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pvision.continual.scenarios import SegmentationScenario, visible_table
from pvision.errors import ConfigError, DataError

CLASSES = 5
SETTINGS = ("overlapped", "disjoint", "partitioned", "sequential")
ORDERS = ([3, 1, 5, 2, 4], [5, 4, 3, 2, 1], [2, 5, 1, 4, 3])
MASKS = arrays(np.uint8, (12, 3, 3), elements=st.sampled_from([0, *range(1, CLASSES + 1), 255]))


def presence_of(masks):
    return np.stack([(masks == label).any((1, 2)) for label in range(CLASSES + 1)], axis=1)


def classes_in(mask):
    return set(np.unique(mask).tolist()) - {0, 255}


def scenario(setting, order=None, **arguments):
    return SegmentationScenario(setting=setting, increments=[2, 1, 2], class_order=order, **arguments)


def shown(made, index, mask):
    """What the masks of an experience show."""
    return visible_table(made.visible_labels(index, CLASSES))[mask]


def released_disjoint(presence, groups):
    """The rule of published code: what counts as an old class is a smaller number, whatever the order."""
    rows = []
    for group in groups:
        allowed = {*group, *range(1, group[0])}
        rows.append(
            [
                n
                for n, row in enumerate(presence)
                if row[list(group)].any() and set(np.flatnonzero(row[1:]) + 1) <= allowed
            ]
        )
    return rows


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("setting", SETTINGS)
@given(masks=MASKS)
@settings(max_examples=15)
def test_masks_show_current_classes_void_and_background_only(setting, order, masks):
    made = scenario(setting, order)
    groups = made.groups(CLASSES)
    assert sorted(label for group in groups for label in group) == list(range(1, CLASSES + 1))
    for index, (group, positions) in enumerate(zip(groups, made.positions(presence_of(masks)), strict=True)):
        earlier = {label for old in groups[:index] for label in old} if setting == "sequential" else set()
        for mask in masks[positions]:
            visible = shown(made, index, mask)
            assert set(np.unique(visible).tolist()) <= {0, 255, *group, *earlier}
            assert classes_in(mask) & set(group)
            changed = visible != mask
            assert (visible[changed] == 0).all()
            assert not np.isin(mask[changed], [255, *group, *earlier]).any()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("setting", ["overlapped", "sequential", "disjoint"])
@given(masks=MASKS)
@settings(max_examples=15)
def test_the_images_of_an_experience_are_those_that_the_setting_says(setting, order, masks):
    made = scenario(setting, order)
    groups = made.groups(CLASSES)
    for index, positions in enumerate(made.positions(presence_of(masks))):
        future = {label for group in groups[index + 1 :] for label in group}
        expected = [
            n
            for n, mask in enumerate(masks)
            if classes_in(mask) & set(groups[index]) and not (setting == "disjoint" and classes_in(mask) & future)
        ]
        assert positions.tolist() == expected


@pytest.mark.parametrize("order", ORDERS)
@given(masks=MASKS, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_partitioned_and_disjoint_images_come_once(order, masks, seed):
    for setting in ("partitioned", "disjoint"):
        positions = np.concatenate(scenario(setting, order, seed=seed).positions(presence_of(masks)))
        assert sorted(positions.tolist()) == [n for n, mask in enumerate(masks) if classes_in(mask)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("setting", ["overlapped", "sequential"])
@given(masks=MASKS)
@settings(max_examples=15)
def test_over_all_experiences_every_pixel_of_a_class_is_shown(setting, order, masks):
    made = scenario(setting, order)
    found = np.zeros_like(masks)
    for index, positions in enumerate(made.positions(presence_of(masks))):
        visible = shown(made, index, masks[positions])
        found[positions] = np.where(np.isin(visible, [0, 255]), found[positions], visible)
    assert np.array_equal(found, np.where(masks == 255, 0, masks))


@pytest.mark.parametrize("order", ORDERS)
def test_the_disjoint_rule_of_published_code_shows_future_classes(order):
    rng = np.random.default_rng(0)
    masks = rng.integers(0, CLASSES + 1, (60, 2, 1))
    presence, groups = presence_of(masks), scenario("disjoint", order).groups(CLASSES)
    released = released_disjoint(presence, groups)
    ours = [positions.tolist() for positions in scenario("disjoint", order).positions(presence)]
    future = [{label for group in groups[index + 1 :] for label in group} for index in range(len(groups))]
    leaks = [classes_in(masks[n]) & later for mine, later in zip(released, future, strict=True) for n in mine]
    assert any(leaks)
    assert ours != released
    ascending = scenario("disjoint")
    same = [positions.tolist() for positions in ascending.positions(presence)]
    assert same == released_disjoint(presence, ascending.groups(CLASSES))


def test_an_image_is_assigned_by_the_seed_and_its_place_alone():
    presence = np.random.default_rng(0).random((200, CLASSES + 1)) < 0.5

    def homes(rows, seed=3):
        return [positions.tolist() for positions in scenario("partitioned", seed=seed).positions(rows)]

    assert homes(presence[:120]) == [[n for n in positions if n < 120] for positions in homes(presence)]
    assert homes(presence) != homes(presence, seed=4)
    one_class = np.zeros((30_000, CLASSES + 1), dtype=bool)
    one_class[:, [1, 3, 5]] = True
    shares = [len(positions) / 30_000 for positions in homes(one_class)]
    # Classes 1 | 3 | 5 of the groups (1, 2), (3,), (4, 5): a third each, within six standard deviations.
    assert shares == pytest.approx([1 / 3] * 3, abs=0.017)


def test_joint_training_sees_all_classes_so_far():
    made = scenario("overlapped", ORDERS[0])
    assert made.visible_labels(1, CLASSES) == (5,)
    assert made.visible_labels(1, CLASSES, seen=True) == (3, 1, 5)


@pytest.mark.parametrize(
    ("task", "classes", "sizes"),
    [
        ("19-1", 20, [19, 1]),
        ("15-5", 20, [15, 5]),
        ("15-1", 20, [15] + [1] * 5),
        ("10-1", 20, [10] + [1] * 10),
        ("5-3", 20, [5] + [3] * 5),
        ("2-2", 20, [2] * 10),
        ("100-50", 150, [100, 50]),
        ("100-5", 150, [100] + [5] * 10),
        ("50-50", 150, [50] * 3),
        ("14-1", 19, [14] + [1] * 5),
        ("offline", 20, [20]),
    ],
)
def test_the_tasks_of_the_field(task, classes, sizes):
    groups = SegmentationScenario(task=task).groups(classes)
    assert [len(group) for group in groups] == sizes
    assert [label for group in groups for label in group] == list(range(1, classes + 1))


def test_an_order_by_seed_is_that_of_other_streams():
    groups = SegmentationScenario(task="50-10", class_order_seed=1993).groups(100)
    assert groups[0][:6] == (69, 57, 79, 9, 24, 85)


def test_experiences_have_names_classes_and_test_images():
    masks = np.zeros((8, 1, 2), dtype=np.uint8)
    masks[:5, 0, 0] = [1, 2, 3, 4, 5]
    presence = presence_of(masks)
    made = scenario("overlapped", ORDERS[0]).experiences(presence, presence[::-1], tuple("abcde"))
    assert [(one.name, one.classes, one.new_classes) for one in made] == [
        ("c, a", (3, 1), (3, 1)),
        ("e", (5,), (5,)),
        ("b, d", (2, 4), (2, 4)),
    ]
    assert [one.train.tolist() for one in made] == [[0, 2], [4], [1, 3]]
    assert [one.test.tolist() for one in made] == [[5, 7], [3], [4, 6]]


def test_a_class_that_could_not_be_learned_is_refused():
    presence = np.ones((4, 3), dtype=bool)
    made = SegmentationScenario(setting="disjoint", task="1-1")
    with pytest.raises(DataError, match=r"classes cat are in no training image of experience 0 \(setting 'disjoint'"):
        made.experiences(presence, presence, ("cat", "dog"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either task .* but neither came"),
        ({"task": "2-1", "increments": [2, 1, 1]}, "but both came"),
        ({"task": "15"}, "as '15-1', but '15' came"),
        ({"task": "0-1"}, "as '15-1', but '0-1' came"),
        ({"task": "2-1", "setting": "joint"}, "setting must be one of 'overlapped', 'disjoint'"),
        ({"task": "2-1", "class_order": [1, 2, 3, 4], "class_order_seed": 1}, "but both came"),
        ({"task": "2-1", "seed": -1}, "seed must be a whole number"),
        ({"increments": [2, 0]}, "increments must be a whole number"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SegmentationScenario(**arguments)


@pytest.mark.parametrize(
    ("arguments", "classes", "message"),
    [
        ({"task": "2-2"}, 5, "leaves 1 of 5 classes over after 1 steps"),
        ({"task": "5-1"}, 5, "begins with 5 classes and goes on"),
        ({"increments": [2, 2]}, 5, "are 4 classes together, but the data set has 5"),
        ({"task": "2-1", "class_order": [0, 1, 2, 3, 4]}, 5, "holds 0, which is the background"),
        ({"task": "2-1", "class_order": [1, 2, 3, 4, 4]}, 5, "each label from 1 to 5 once, but 5 are missing"),
        ({"task": "2-1", "class_order": [1, 2, 3, 4, 5, 5]}, 5, "5 come twice"),
        ({"task": "2-1", "class_order": [1, 2, 3, 4, 6]}, 5, "5, 6 are missing or unknown"),
        ({"task": "offline"}, 255, "255 classes came, but a mask of 8 bits tells 254 apart"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(arguments, classes, message):
    with pytest.raises(ConfigError, match=message):
        SegmentationScenario(**arguments).groups(classes)

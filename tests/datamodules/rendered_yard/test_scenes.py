"""What a yard shows: splits by rule, objects that stand apart, colours of the classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvision.datamodules.rendered_yard import scenes
from pvision.datamodules.rendered_yard.labels import CLASS_NAMES, KINDS, PARTS, label_of
from pvision.datamodules.rendered_yard.palette import draw_colors
from pvision.datamodules.rendered_yard.scenes import LEAST_DISTANCE, SIZES, SPLITS, draw_scene, generator

places = st.tuples(st.sampled_from(SPLITS), st.integers(0, 10**6), st.integers(0, 2**32))


@given(place=places)
def test_a_scene_follows_from_split_number_and_seed(place):
    split, index, seed = place
    other = "train" if split == "test" else "test"
    assert draw_scene(*place) == draw_scene(*place)
    for changed in ((split, index, seed + 1), (split, index + 1, seed), (other, index, seed)):
        assert draw_scene(*place) != draw_scene(*changed)


@given(place=places)
def test_test_scenes_show_other_sides_and_other_moments(place):
    for item in draw_scene(*place).objects:
        assert 0 <= item.aspect < 360
        assert (33.75 <= item.aspect % 90 < 56.25) == (0.4 <= item.phase < 0.6) == (place[0] == "test")


@given(place=places)
def test_the_mirror_image_of_a_view_belongs_to_the_same_split(place):
    """Else a test view of a symmetric model would be a training view, mirrored."""
    for item in draw_scene(*place).objects:
        assert (33.75 <= (360 - item.aspect) % 90 <= 56.25) == (place[0] == "test")


@given(place=places)
def test_the_aspect_is_the_side_that_the_camera_sees(place):
    """An object that the camera sees at an angle is turned by that angle, so that its aspect stays what it is."""
    for item in draw_scene(*place).objects:
        assert item.yaw + np.degrees(np.arctan2(item.x, item.y)) == pytest.approx(item.aspect)


@given(place=places)
def test_two_or_three_objects_of_different_kinds_stand_apart(place):
    objects = draw_scene(*place).objects
    assert 2 <= len(objects) <= 3
    assert len({item.kind for item in objects}) == len(objects)
    for number, item in enumerate(objects):
        assert 1.45 <= item.y <= 2.5
        assert abs(item.x) <= 0.36 * item.y
        assert all(np.hypot(item.x - other.x, item.y - other.y) >= LEAST_DISTANCE for other in objects[:number])
        assert item.size < (1 if item.kind == "person" else SIZES)
        assert (item.performance >= 0) == (item.kind == "person")
        assert len(item.joints) == {"quadruped": 12, "arm": 6}.get(item.kind, 0)
        assert item.kind == "drum" or not item.lying


def test_without_room_an_object_is_left_out_but_never_the_second(monkeypatch):
    free = [len(draw_scene("train", index, 0).objects) for index in range(100)]
    monkeypatch.setattr(scenes, "LEAST_DISTANCE", 1.2)
    crowded = [draw_scene("train", index, 0).objects for index in range(100)]
    assert sum(map(len, crowded)) < sum(free)
    assert min(map(len, crowded)) == 2
    assert all(np.hypot(a.x - b.x, a.y - b.y) >= 1.2 for a, b, *_ in crowded)


def test_each_kind_comes_often():
    counts = dict.fromkeys(KINDS, 0)
    for index in range(400):
        for item in draw_scene("train", index, 0).objects:
            counts[item.kind] += 1
    assert min(counts.values()) > 80
    assert max(counts, key=counts.get) == "person"


def test_the_labels_are_those_of_the_classes_and_each_belongs_to_one_kind():
    parts = [name for kind in KINDS for name in PARTS[kind]]
    assert sorted(parts) == sorted(CLASS_NAMES)
    assert [label_of(name) for name in CLASS_NAMES] == list(range(1, 11))
    assert CLASS_NAMES[0] == "vehicle"
    assert CLASS_NAMES[-1] == "skin"


@given(kinds=st.sets(st.sampled_from(KINDS), min_size=1), seed=st.integers(0, 2**32))
def test_only_classes_that_are_there_have_a_colour(kinds, seed):
    table = draw_colors(np.random.default_rng(seed), sorted(kinds))
    there = {label_of(name) - 1 for kind in kinds for name in PARTS[kind]}
    assert set(np.flatnonzero(table.any(1)).tolist()) == there
    assert np.array_equal(table, draw_colors(np.random.default_rng(seed), sorted(kinds)))


def test_balls_are_told_from_drums_by_colour():
    """Both are round and without parts, so nothing else tells them apart where one hides the other's outline."""
    rng = np.random.default_rng(0)
    tables = np.array([draw_colors(rng, ["ball", "drum"]) for _ in range(300)]).astype(float) / 255
    ball, drum = (tables[:, label_of(name) - 1] for name in ("ball", "drum"))
    greenness = [color[:, 1] - color[:, 0] for color in (ball, drum)]
    assert np.mean(greenness[0] < 0.02) > 0.8
    assert np.mean(greenness[1] > 0.02) > 0.9


def test_purposes_do_not_share_random_numbers():
    streams = [generator("train", 0, 0, stream).random() for stream in ("scene", "colors", "surroundings")]
    assert len(set(streams)) == 3
    assert SPLITS == ("train", "test"), "their order is part of each scene's seed"

"""What RenderedModalities draws: splits by rule, surfaces, and depth in few bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pvision.datamodules.rendered.camera import FOCAL, HEIGHT, WIDTH, Camera
from pvision.datamodules.rendered.geometry import decode_depth, encode_depth, owners
from pvision.datamodules.rendered.objects import CLASS_NAMES, CLUTTER, KINDS, SURFACES, decode_temperature
from pvision.datamodules.rendered.palette import draw_surfaces
from pvision.datamodules.rendered.scenes import MODELS, draw_scene
from pvision.datamodules.rendered.weather import SPLITS, draw_weather, generator

places = st.tuples(st.sampled_from(SPLITS), st.integers(0, 10**6), st.integers(0, 2**32))


@given(place=places)
def test_a_scene_follows_from_split_number_and_seed(place):
    split, index, seed = place
    assert draw_scene(*place) == draw_scene(*place)
    assert draw_weather(*place) == draw_weather(*place)
    assert draw_scene(*place) != draw_scene(split, index, seed + 1)
    assert draw_scene(*place) != draw_scene(split, index + 1, seed)
    assert draw_weather(*place) != draw_weather(split, index, seed + 1)


@given(place=places)
def test_test_scenes_show_other_sides_and_other_moments(place):
    for item in draw_scene(*place).objects:
        assert (item.aspect % 90 >= 67.5) == (0.4 <= item.phase < 0.6) == (place[0] == "test")


@given(place=places)
def test_bodies_stand_apart_and_none_is_used_twice(place):
    objects = draw_scene(*place).objects
    assert sum(item.kind != CLUTTER for item in objects) <= 6
    assert len({(item.kind, item.model) for item in objects}) == len(objects)
    for number, item in enumerate(objects):
        assert 0 <= item.model < MODELS[item.kind]
        assert len(item.surfaces) == len(SURFACES[KINDS[item.kind]])
        assert (item.performance >= 0) == (KINDS[item.kind] == "person")
        assert all(np.hypot(item.x - other.x, item.y - other.y) > 0.85 for other in objects[:number])


def test_the_aspect_is_the_side_that_the_camera_sees():
    """An object that the camera sees at an angle is turned by that angle, so that its aspect stays what it is."""
    objects = [item for index in range(20) for item in draw_scene("test", index, 0).objects]
    for item in objects:
        bearing = np.degrees(np.arctan2(item.x, item.y))
        assert item.yaw + bearing == pytest.approx(item.aspect)


def test_each_class_comes_often_and_so_does_the_dark():
    scenes = [(draw_scene("train", index, 0), draw_weather("train", index, 0)) for index in range(300)]
    kinds = np.bincount([item.kind for scene, _ in scenes for item in scene.objects], minlength=4)
    assert kinds[: len(CLASS_NAMES)].min() > 150
    assert 0.08 < np.mean([weather.dark for _, weather in scenes]) < 0.22


@pytest.mark.parametrize("air", [268.0, 288.0, 306.0])
def test_heat_alone_does_not_give_the_answer(air):
    """Clutter is often as warm as what is looked for, and machines are often as cold as the air."""
    rng = np.random.default_rng(0)
    warmth = {
        kind: np.array([max(s.temperature for s in draw_surfaces(rng, kind, air)) - air for _ in range(400)])
        for kind in KINDS
    }
    assert 0.35 < np.mean(warmth["clutter"] > 3) < 0.65
    assert 0.15 < np.mean(warmth["vehicle"] < 3.5) < 0.5
    skin = [draw_surfaces(rng, "person", air)[0].temperature for _ in range(100)]
    assert 303 < min(skin) < max(skin) < 309


@given(place=places)
def test_the_bytes_of_a_surface_give_it_back(place):
    for item in draw_scene(*place).objects:
        for surface in item.surfaces:
            row = np.array(surface.row(), np.uint8)
            assert row[:3] / 255 == pytest.approx(np.array(surface.color), abs=0.5 / 255)
            assert float(decode_temperature(row[4])) == pytest.approx(surface.temperature, abs=0.251)
            assert row[5] / 255 == pytest.approx(surface.emissivity, abs=0.5 / 255)


def test_colours_tell_the_classes_apart_but_not_from_clutter():
    """Each class wears colours of its own, as a detector of RGB images may learn, and clutter comes in all of them."""
    objects = [item for index in range(300) for item in draw_scene("train", index, 0).objects]
    shirts, shells, engines, clutter = (
        np.array([item.surfaces[place].color for item in objects if item.kind == kind])
        for kind, place in ((0, 1), (1, 0), (2, 0), (CLUTTER, 0))
    )
    means = [colors.mean(0) for colors in (shirts, shells, engines)]
    assert min(np.abs(means[a] - means[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))) > 0.2
    for colors in (shirts, shells, engines):
        assert np.median(np.abs(colors[:, None] - clutter).max(-1).min(1)) < 0.12


@given(
    depth=arrays.arrays(np.float64, (6, 7), elements=st.floats(4, 6)),
    belongs=arrays.arrays(np.uint8, (6, 7), elements=st.integers(0, 3)),
)
def test_depth_comes_back_within_half_a_step(depth, belongs):
    codes, anchors = encode_depth(depth, belongs, 3)
    assert codes.dtype == np.uint8
    assert len(codes) == (belongs > 0).sum()
    back = decode_depth(codes, anchors, belongs)
    inside = belongs > 0
    assert np.log(back[inside]) == pytest.approx(np.log(depth[inside]), abs=0.5 / 256 + 1e-6)
    assert np.isinf(back[~inside]).all()


def test_depth_far_from_its_objects_middle_is_cut_off_not_wrapped():
    depth = np.array([[1.0, 1.0, 1.0, 30.0]])
    codes, anchors = encode_depth(depth, np.ones((1, 4), np.uint8), 1)
    back = decode_depth(codes, anchors, np.ones((1, 4), np.uint8))
    assert back[0, :3] == pytest.approx(1)
    assert back[0, 3] == pytest.approx(np.exp(127 / 256))


def test_owners_count_the_surfaces_of_each_object():
    assert owners([0, 3, 2]).tolist() == [0, 1, 1, 1, 1, 2, 3, 3, 3]
    assert owners([]).tolist() == [0]


def test_rays_look_where_the_camera_does():
    right, ahead, up = Camera(1.0, 0.0).rays()
    assert right.shape == (HEIGHT, WIDTH)
    assert ahead == pytest.approx(np.ones((HEIGHT, WIDTH)))
    assert right[0, 0] == pytest.approx(-(WIDTH - 1) / 2 / FOCAL)
    assert up[0, 0] == pytest.approx((HEIGHT - 1) / 2 / FOCAL)
    _, _, lower = Camera(1.0, 10.0).rays()
    assert (lower < up).all(), "a camera that looks down sees more of the floor"


def test_purposes_have_random_numbers_of_their_own():
    drawn = [generator("train", 0, 0, stream).random() for stream in ("scene", "weather", "texture", "rgb", "lwir")]
    assert len(set(drawn)) == len(drawn)

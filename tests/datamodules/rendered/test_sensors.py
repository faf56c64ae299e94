"""The three simulated sensors: exact boxes, one view, plausible physics, and noise as announced."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pvision.datamodules.rendered import records
from pvision.datamodules.rendered.camera import HEIGHT, WIDTH, Camera
from pvision.datamodules.rendered.geometry import Geometry, decode_depth, encode_depth, owners
from pvision.datamodules.rendered.objects import CLASS_NAMES, CLUTTER, Surface, encode_temperature
from pvision.datamodules.rendered.records import SceneRecords, boxes_of, simulate
from pvision.datamodules.rendered.sensors import MODALITIES, SENSORS
from pvision.datamodules.rendered.storage import StoredScene, load_scenes
from pvision.datamodules.rendered.view import see
from pvision.datamodules.rendered.weather import draw_weather, generator
from pvision.detection.records import check_target

COUNT = 60


@pytest.fixture(scope="module")
def scenes():
    return load_scenes("test", limit=COUNT)


@pytest.fixture(scope="module")
def views(scenes):
    return [view_of(scenes[index], index) for index in range(COUNT)]


def view_of(scene, index, split="test"):
    weather = draw_weather(split, index, 0)
    texture = generator(split, index, 0, "texture")
    return see(scene.geometry, scene.table, scene.kinds, scene.camera, weather, texture)


def noise(number=0):
    return np.random.default_rng([99, number])


def standing(maps, kinds, *, distance=4.0, shares=None, surface=None):
    """A scene of flat objects that face the camera, all lit alike."""
    belongs = owners(kinds)[maps]
    depths, anchors = encode_depth(np.full(maps.shape, distance), belongs, len(kinds))
    shades = np.full((maps > 0).sum(), 12, np.uint8)
    surface = surface or Surface((0.9, 0.1, 0.1), 0.9, 320.0, 0.95)
    table = np.array([surface.row()] * (len(owners(kinds)) - 1), np.uint8).reshape(-1, 6)
    geometry = Geometry(maps, shades, depths, anchors, shares or [1.0] * len(kinds))
    return StoredScene(geometry, table, kinds, Camera(1.5, 8.0))


def slow_boxes(scene):
    """The obvious twin: pixel by pixel."""
    belongs = owners(scene.kinds)
    found = []
    for number, kind in enumerate(scene.kinds, start=1):
        pixels = [
            place for place in np.ndindex(scene.geometry.map.shape) if belongs[scene.geometry.map[place]] == number
        ]
        if kind != CLUTTER and len(pixels) >= 80 and scene.geometry.shares[number - 1] >= 0.7:
            rows, columns = zip(*pixels, strict=True)
            found.append(([min(columns), min(rows), max(columns) + 1, max(rows) + 1], kind))
    return found


# Two persons (4 surfaces each), clutter (1) and a vehicle (3): map values 1-4, 5-8, 9 and 10-12.
@given(
    maps=arrays.arrays(np.uint8, (18, 24), elements=st.integers(0, 12)),
    shares=st.lists(st.sampled_from([0.0, 0.69, 0.7, 1.0]), min_size=4, max_size=4),
)
def test_boxes_are_those_of_the_visible_pixels(maps, shares):
    scene = standing(maps, [0, 0, CLUTTER, 2], shares=shares)
    target, expected = boxes_of(scene), slow_boxes(scene)
    assert target["boxes"].tolist() == [box for box, _ in expected]
    assert target["labels"].tolist() == [label for _, label in expected]
    assert target["boxes"].shape == (len(expected), 4)


def test_a_box_needs_eighty_pixels():
    maps = np.zeros((HEIGHT, WIDTH), np.uint8)
    maps[3, 5:84] = 1
    assert len(boxes_of(standing(maps, [1]))["boxes"]) == 0
    maps[3, 84] = 1
    assert boxes_of(standing(maps, [1]))["boxes"].tolist() == [[5, 3, 85, 4]]


def test_shipped_boxes_are_exact_and_inside_the_image(scenes):
    boxes = 0
    for index in range(COUNT):
        target = boxes_of(scenes[index])
        check_target(target, name=str(index), height=HEIGHT, width=WIDTH, class_names=CLASS_NAMES)
        assert [
            (box, label) for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True)
        ] == [(box, label) for box, label in slow_boxes(scenes[index])]
        boxes += len(target["labels"])
    assert boxes > 2 * COUNT


@pytest.mark.parametrize("modality", MODALITIES)
def test_an_object_changes_its_own_pixels_and_nothing_else(modality):
    """The same scene with and without an object differs where the map says, up to the one pixel of the lens."""
    with_it, without = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    with_it[40:70, 50:64] = 1
    surface = Surface((0.9, 0.05, 0.05), 0.95, 345.0, 0.97)
    day = next(index for index in range(50) if not draw_weather("test", index, 0).dark)
    pictures = [
        simulate(standing(maps, [1], surface=surface), modality, split="test", index=day, seed=0).astype(int)
        for maps in (with_it, without)
    ]
    changed = np.any(pictures[0] != pictures[1], axis=-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    blur = 0 if modality == "depth" else 1
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (40 - blur, 69 + blur, 50 - blur, 63 + blur)
    assert changed[40:70, 50:64].mean() > 0.97


@pytest.mark.parametrize("modality", MODALITIES)
def test_pictures_repeat_and_their_noise_is_their_own(scenes, modality):
    first = simulate(scenes[0], modality, split="test", index=0, seed=0)
    assert np.array_equal(first, simulate(scenes[0], modality, split="test", index=0, seed=0))
    view = view_of(scenes[0], 0)
    assert not np.array_equal(SENSORS[modality](view, noise(0)), SENSORS[modality](view, noise(1)))


def test_the_records_serve_what_the_sensors_see(scenes):
    for modality, channels in (("rgb", 3), ("lwir", 1), ("depth", 2)):
        batch = SceneRecords("test", scenes, modality)[[3, 0, 3]]
        assert batch.modality == modality
        assert batch.names == ["test/00003", "test/00000", "test/00003"]
        for image, index in zip(batch.images, (3, 0, 3), strict=True):
            assert image.shape == (channels, HEIGHT, WIDTH)
            assert image.dtype == torch.float32
            picture = simulate(scenes[index], modality, split="test", index=index, seed=0)
            assert np.array_equal(image.numpy(), picture.transpose(2, 0, 1).astype(np.float32))
        assert all(
            torch.equal(target["boxes"], boxes_of(scenes[index])["boxes"])
            for target, index in zip(batch.targets, (3, 0, 3), strict=True)
        )


def test_what_a_reader_does_to_a_batch_does_not_change_the_next_one(scenes):
    kept = SceneRecords("test", scenes, "lwir")
    first = kept[[0]]
    expected = first.images[0].clone(), first.targets[0]["boxes"].clone()
    first.images[0].zero_()
    first.targets[0]["boxes"].zero_()
    again = kept[[0]]
    assert torch.equal(again.images[0], expected[0])
    assert torch.equal(again.targets[0]["boxes"], expected[1])


def test_pictures_are_simulated_once(scenes, monkeypatch):
    calls = []
    monkeypatch.setattr(records, "simulate", lambda *args, **settings: calls.append(1) or simulate(*args, **settings))
    kept = SceneRecords("test", scenes, "depth")
    kept[[0, 1]], kept[[1, 0]]
    assert len(calls) == 2


def test_infrared_counts_are_temperatures(views):
    for view in views:
        picture = SENSORS["lwir"](view, noise())
        assert picture.dtype == np.uint16
        kelvin = picture[..., 0] / 100
        assert 240 < kelvin.min() < kelvin.max() < 350
        low, high = np.percentile(kelvin, [2, 98])
        assert high - low < 65, "the scene fills a small part of the range of 100 K"


def uniform(temperature, emissivity=1.0):
    """A wall that fills the view, all of one temperature, as near as can be."""
    surface = Surface((0.5, 0.5, 0.5), 0.5, temperature, emissivity)
    scene = standing(np.ones((HEIGHT, WIDTH), np.uint8), [CLUTTER], distance=0.5, surface=surface)
    return view_of(scene, 0)


def test_a_black_wall_shows_its_temperature():
    kelvin = SENSORS["lwir"](uniform(300.15), noise()) / 100
    coded = 233.15 + 0.5 * encode_temperature(300.15)
    assert kelvin.mean() == pytest.approx(coded, abs=0.5)  # the air in between takes and adds a little


def test_a_metal_wall_mirrors_the_cold_sky():
    black, metal = (SENSORS["lwir"](uniform(300.15, emissivity), noise()).mean() for emissivity in (1.0, 0.7))
    assert metal < black - 100


def test_infrared_noise_is_as_announced():
    view = uniform(300.15)
    first, second = (SENSORS["lwir"](view, noise(number))[..., 0] / 100 for number in (0, 1))
    difference = (first - second) / np.sqrt(2)
    columns = difference.mean(0)
    within = difference - columns
    assert within.std() == pytest.approx(0.06, rel=0.05), "60 mK in each pixel"
    assert columns.std() == pytest.approx(np.hypot(0.04, 0.06 / np.sqrt(HEIGHT)), rel=0.25), "40 mK in each column"


def test_the_sky_has_no_depth_and_objects_have_theirs(views):
    for view in views:
        picture = SENSORS["depth"](view, noise())
        assert picture.shape == (HEIGHT, WIDTH, 2)
        assert picture.dtype == np.uint16
        distance = picture[..., 0] / 1000
        assert not distance[view.sky].any()
        read = distance > 0
        assert (view.distance[read] < 20).all()
        assert np.abs(distance - view.distance)[read].mean() < 0.1
        near = (view.objects > 0) & (view.distance < 5) & (view.infrared > 0.4) & (view.cosine > 0.6)
        assert read[near].mean() > 0.95 if near.sum() > 100 else True


def test_dark_ground_and_far_surfaces_return_less():
    near, far = (
        SENSORS["depth"](
            view_of(standing(np.ones((HEIGHT, WIDTH), np.uint8), [CLUTTER], distance=distance), 0), noise()
        )
        for distance in (3.0, 9.0)
    )
    assert near[..., 1].mean() == pytest.approx(9 * far[..., 1].mean(), rel=0.15)
    assert (near[..., 0] == 0).mean() < 0.01 < (far[..., 0] == 0).mean() + 0.01


def test_dark_scenes_are_dark_in_colour_and_clear_in_infrared(views):
    brightness = {True: [], False: []}
    contrast = {True: [], False: []}
    for view in views:
        if not (view.objects > 0).any():
            continue
        kelvin = SENSORS["lwir"](view, noise())[..., 0] / 100
        brightness[view.weather.dark].append(SENSORS["rgb"](view, noise()).mean())
        contrast[view.weather.dark].append(kelvin[~view.sky].std())
    assert len(brightness[True]) > 3
    assert max(brightness[True]) < 75 < min(brightness[False])
    assert np.median(contrast[True]) > 0.6 * np.median(contrast[False])


def test_depth_of_objects_is_what_was_stored(scenes, views):
    for index, view in enumerate(views):
        scene = scenes[index]
        belongs = owners(scene.kinds)[scene.geometry.map]
        stored = decode_depth(scene.geometry.depths, scene.geometry.anchors, belongs)
        solid = belongs > 0
        assert np.array_equal(view.objects, belongs)
        # The ray is longer than its share along the axis, by 17 % in the corner of this field of view.
        ratio = view.distance[solid] / stored[solid]
        assert 1 <= ratio.min(initial=1) <= ratio.max(initial=1) < 1.17


def test_the_floor_ends_at_the_horizon(views):
    for view in views:
        assert not view.sky[(view.elevation < -0.01)].any()
        assert (view.distance[view.sky] == np.inf).all()
        assert np.isfinite(view.distance[~view.sky]).all()
        assert (view.color >= 0).all()
        assert (view.color <= 1.2).all()
        assert (view.cosine >= 0).all()
        assert (view.cosine <= 1 + 1e-6).all()

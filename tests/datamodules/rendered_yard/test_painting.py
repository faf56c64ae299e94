"""From labels and light to the picture: what is painted where, and by which numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvision.datamodules.rendered_yard.camera import FIELD_OF_VIEW, SIZE, Camera
from pvision.datamodules.rendered_yard.painting import SHADES, paint

cameras = st.builds(Camera, st.floats(0.8, 1.5), st.floats(0, 40))
NOTHING = np.zeros((SIZE, SIZE), np.uint8)


def painted(labels, shades, colors, camera, seed):
    return paint(
        labels, np.asarray(shades, np.uint8), np.asarray(colors, np.uint8), camera, np.random.default_rng(seed)
    )


def background(camera, seed):
    return painted(NOTHING, [], np.zeros((10, 3)), camera, seed)


@given(camera=cameras)
def test_the_points_of_the_floor_are_seen_where_they_are_projected_to(camera):
    """Pinhole equations from the floor to the picture, against the rays that go the other way."""
    view = camera.floor()
    pitch = np.radians(camera.pitch)
    ahead = view.y * np.cos(pitch) + camera.height * np.sin(pitch)
    above = view.y * np.sin(pitch) - camera.height * np.cos(pitch)
    focal = SIZE / 2 / np.tan(np.radians(FIELD_OF_VIEW / 2))
    rows, columns = np.nonzero(view.shown)
    assert np.allclose(SIZE / 2 + focal * view.x / ahead, columns + 0.5)
    assert np.allclose(SIZE / 2 - focal * above / ahead, rows + 0.5)


@given(camera=cameras)
def test_the_floor_lies_below_a_straight_horizon(camera):
    shown = camera.floor().shown
    assert (shown == shown[:, :1]).all()
    assert (np.diff(shown[:, 0].astype(int)) >= 0).all()
    horizon = SIZE / 2 - np.tan(np.radians(camera.pitch)) * SIZE / 2 / np.tan(np.radians(FIELD_OF_VIEW / 2))
    assert np.argmax(shown[:, 0]) == pytest.approx(max(0, horizon), abs=1)


@given(camera=cameras, seed=st.integers(0, 2**32))
def test_the_sky_is_one_colour_with_noise_and_the_floor_two(camera, seed):
    picture = background(camera, seed).astype(float)
    shown = camera.floor().shown
    if (~shown).sum() > 200:
        sky = picture[~shown]
        unclipped = (sky > 0).all(0) & (sky < 255).all(0)
        assert (sky.std(0)[unclipped] == pytest.approx(0.02 * 255, rel=0.25)) or not unclipped.any()


@given(seed=st.integers(0, 2**32), value=st.integers(1, 10), camera=cameras)
def test_what_no_object_covers_does_not_depend_on_the_objects(seed, value, camera):
    labels = NOTHING.copy()
    labels[20:40, 10:50] = value
    picture = painted(labels, np.full(20 * 40, 8), np.full((10, 3), 128), camera, seed)
    assert np.array_equal(picture[labels == 0], background(camera, seed)[labels == 0])


def test_an_object_has_its_classs_colour_in_its_shade():
    labels = NOTHING.copy()
    labels[:, :32], labels[:, 32:] = 3, 7
    colors = np.zeros((10, 3))
    colors[2], colors[6] = (200, 100, 50), (40, 160, 80)
    shades = np.repeat(np.arange(SIZE) // 4, SIZE)
    assert shades.max() == SHADES - 1
    # Dividing by the picture of a white object takes out exposure and tint, which are the same for all surfaces.
    ratio = np.zeros((SIZE, SIZE, 3))
    for seed in range(30):
        white = painted(labels, np.full(SIZE * SIZE, 8), np.full((10, 3), 200), Camera(1, 20), seed).mean((0, 1))
        ratio += painted(labels, shades, colors, Camera(1, 20), seed) / white / 30
    share = (0.35 + 0.65 * (np.arange(SIZE) // 4 + 0.5) / 16) / (0.35 + 0.65 * 8.5 / 16)
    assert np.allclose(ratio[:, :32].mean(1), share[:, None] * colors[2] / 200, atol=0.02)
    assert np.allclose(ratio[:, 32:].mean(1), share[:, None] * colors[6] / 200, atol=0.02)


def test_floors_have_patches_tiles_and_stripes():
    """Every texture shows both colours of the floor, and scenes differ."""
    camera = Camera(1.2, 20)
    pictures = [background(camera, seed) for seed in range(12)]
    shown = camera.floor().shown
    spread = [picture[shown].astype(float).std(0).max() for picture in pictures]
    assert np.median(spread) > 1.5 * 0.02 * 255
    assert len({picture.tobytes() for picture in pictures}) == 12

"""Masks without files of their own: no clip is public for want of a word, and no box is smaller than it says."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvision.datamodules.decoding import VideoInfo
from pvision.datamodules.masks import Boxes, FixedRegions, Footage, WholeFrame
from pvision.errors import ConfigError, DataError
from pvision.privacy import Redaction

# Boxes


def boxes(folder, content, **settings):
    path = folder / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return Boxes(str(path), **settings)


def test_boxes_are_half_open_and_hold_in_their_frames(tmp_path, footage):
    source = boxes(tmp_path, {"walk/a.mp4": [[2, 10, 5, 20, 8], [4, 6, 0, 0, 1.5, 2]]})
    source.check(footage)
    expected = torch.zeros(4, 48, 64, dtype=torch.bool)
    expected[1, 5:8, 10:20] = True
    expected[2, 0:2, 0:2] = True
    assert torch.equal(source.load(footage, [1, 2, 5, 6]), expected)


def test_an_empty_list_says_that_nothing_is_there(tmp_path, footage):
    source = boxes(tmp_path, {"./walk/a.mp4": []})
    source.check(footage)
    assert not source.load(footage, [0]).any()


def test_a_clip_without_annotation_is_refused(tmp_path, footage):
    source = boxes(tmp_path, {"walk/b.mp4": []})
    for look in (
        lambda: source.check(footage),
        lambda: source.load(footage, [0]),
        lambda: source.region(footage, [0], Redaction("inside")),
    ):
        with pytest.raises(DataError, match=r"nothing of the clip 'walk/a\.mp4'.*missing: none_sensitive"):
            look()


@pytest.mark.parametrize("sensitive", ["inside", "outside"])
def test_none_sensitive_means_public_whatever_the_polarity(tmp_path, footage, sensitive):
    source = boxes(tmp_path, {"walk/b.mp4": []}, missing="none_sensitive")
    source.check(footage)
    assert not source.region(footage, [0, 1], Redaction(sensitive, dilate=3)).any()


def test_an_empty_list_with_a_sensitive_background_is_all_sensitive(tmp_path, footage):
    source = boxes(tmp_path, {"walk/a.mp4": []}, missing="none_sensitive")
    assert source.region(footage, [0], Redaction("outside")).all()


@pytest.mark.parametrize(
    "row",
    [
        "[0, 1, 1, NaN, 4]",
        "[0, 1, 1, Infinity, 4]",
        f"[0, 1, 1, {10**400}, 4]",
        "[0, 5, 1, 5, 4]",
        "[0, 5, 4, 9, 1]",
        "[0, 10, 10, 5, 5]",  # xywh for xyxy
        "[0, -1, 1, 3, 4]",
        "[-1, 1, 1, 3, 4]",
        "[0.5, 1, 1, 3, 4]",
        "[true, 1, 1, 3, 4]",
        "[0, true, 1, 3, 4]",
        '[0, "1", 1, 3, 4]',
        "[4, 4, 1, 1, 3, 4]",
        "[1, 1, 3, 4]",
        "[]",
        "7",
        "null",
    ],
)
def test_what_is_no_box_is_refused_with_the_clip(tmp_path, row):
    with pytest.raises(DataError, match=r"row .* of 'walk/a\.mp4' is no box"):
        boxes(tmp_path, f'{{"walk/a.mp4": [[0, 1, 1, 2, 2], {row}]}}')


@pytest.mark.parametrize("row", [[0, 1, 1, 65, 4], [0, 1, 1, 3, 49], [16, 1, 1, 3, 4], [3, 17, 1, 1, 3, 4]])
def test_a_box_outside_the_video_is_refused(tmp_path, footage, row):
    source = boxes(tmp_path, {"walk/a.mp4": [row]})
    with pytest.raises(DataError, match=r"outside the video, which has 16 frames of 64x48"):
        source.check(footage)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "one object"),
        ("{", "no JSON"),
        ('{"walk/a.mp4": 3}', "must have a list"),
        ('{"walk/a.mp4": [[0, 1, 1, 2, 2]], "./walk/a.mp4": []}', "twice"),
    ],
)
def test_another_file_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        boxes(tmp_path, content)


def test_a_file_of_boxes_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json"):
        Boxes(str(tmp_path / "nowhere.json"))


def test_missing_is_one_of_two_words(tmp_path):
    with pytest.raises(ConfigError, match=r"masks\.missing"):
        boxes(tmp_path, {}, missing="public")


@given(
    st.tuples(st.floats(0, 60), st.floats(0, 44), st.floats(0.01, 60), st.floats(0.01, 44)),
    st.sampled_from(["boxes", "fixed"]),
)
def test_every_pixel_that_a_box_touches_is_inside(tmp_path_factory, box, kind):
    x1, y1, width, height = box
    x2, y2 = min(64.0, x1 + width), min(48.0, y1 + height)
    footage = Footage("a.mp4", tmp_path_factory.getbasetemp(), VideoInfo(1, 48, 64))
    if kind == "fixed":
        mask = FixedRegions([[x1, y1, x2, y2]], unit="pixel").load(footage, [0])[0]
    else:
        mask = boxes(tmp_path_factory.mktemp("boxes"), {"a.mp4": [[0, x1, y1, x2, y2]]}).load(footage, [0])[0]
    for y in range(48):
        for x in range(64):
            overlap = min(x2, x + 1) - max(x1, x) > 1e-5 and min(y2, y + 1) - max(y1, y) > 1e-5
            assert not overlap or mask[y, x]
    assert mask.sum() <= (x2 - x1 + 2) * (y2 - y1 + 2)


# Fixed regions and the whole frame


def test_fractions_and_pixels_say_the_same(footage):
    fraction = FixedRegions([[0.25, 0.5, 0.75, 1.0], [0, 0, 0.125, 0.25]], unit="fraction")
    pixel = FixedRegions([[16, 24, 48, 48], [0, 0, 8, 12]], unit="pixel")
    mask = fraction.load(footage, [0, 3])
    assert torch.equal(mask, pixel.load(footage, [0, 3]))
    assert mask.sum() == 2 * (32 * 24 + 8 * 12)


@pytest.mark.parametrize(
    ("regions", "unit"),
    [
        ([], "pixel"),
        ([[0, 0, 1]], "pixel"),
        ([[0, 0, 0, 5]], "pixel"),
        ([[5, 0, 1, 5]], "pixel"),
        ([[0, 0, float("nan"), 1]], "pixel"),
        ([[0, 0, 2, 1]], "fraction"),
        ([[-0.1, 0, 1, 1]], "fraction"),
        ([[0, 0, 1, 1]], "percent"),
    ],
)
def test_regions_that_are_none_are_refused(regions, unit):
    with pytest.raises(ConfigError, match=r"masks\.(boxes|unit)"):
        FixedRegions(regions, unit=unit)


def test_a_fixed_region_outside_a_video_is_refused(footage):
    with pytest.raises(DataError, match="outside"):
        FixedRegions([[0, 0, 65, 10]], unit="pixel").check(footage)


def test_the_whole_frame_is_all_inside(footage):
    source = WholeFrame()
    source.check(footage)
    assert source.load(footage, [0, 0]).shape == (2, 48, 64)
    assert source.region(footage, [0], Redaction("inside")).all()
    assert not source.region(footage, [0], Redaction("outside")).any()

"""The public view is made from public pixels and the mask alone, and is its own public view."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvision.errors import ConfigError
from pvision.privacy import Redaction, resample_mask


@st.composite
def redactions(draw, **fixed):
    chosen = {
        "sensitive": draw(st.sampled_from(["inside", "outside"])),
        "shape": draw(st.sampled_from(["exact", "union", "box"])),
        "grid": draw(st.integers(1, 5)),
        "dilate": draw(st.integers(0, 7)),
        "dilate_frames": draw(st.integers(0, 5)),
        "fill": draw(st.sampled_from([0, 128, 255])),
    }
    return Redaction(**{**chosen, **fixed})


@st.composite
def masks(draw, clips=2):
    size = [draw(st.integers(1, limit)) for limit in (4, 9, 11)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    share = draw(st.sampled_from([0.0, 0.02, 0.2, 0.9, 1.0]))
    return torch.rand(clips, *size, generator=generator) < share


def noise_like(mask, seed):
    return torch.randint(0, 256, (*mask.shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def slow_region(redaction, mask):
    """One pixel after the other, from the sentences of the docstring."""
    region = torch.zeros_like(mask)
    sensitive = mask if redaction.sensitive == "inside" else ~mask
    for t, y, x in sensitive.nonzero().tolist():
        late, below, right = (
            t + redaction.dilate_frames + 1,
            y + redaction.dilate + 1,
            x + redaction.dilate + 1,
        )
        early, above, left = (
            max(0, t - redaction.dilate_frames),
            max(0, y - redaction.dilate),
            max(0, x - redaction.dilate),
        )
        region[early:late, above:below, left:right] = True
    if redaction.shape != "exact":
        region[:] = region.any(0)
    if redaction.shape == "box" and region.any():
        _, rows, columns = region.nonzero().unbind(1)
        region[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    cells = torch.zeros_like(region)
    side = redaction.grid
    for t, y, x in region.nonzero().tolist():
        top, left = y // side * side, x // side * side
        cells[t, top : top + side, left : left + side] = True
    return cells


@given(redactions(), masks())
def test_the_region_equals_its_slow_twin(redaction, mask):
    region = redaction.region(mask)
    assert torch.equal(region, torch.stack([slow_region(redaction, clip) for clip in mask]))
    assert region.dtype == torch.bool


@given(redactions(), masks())
def test_the_region_covers_everything_sensitive(redaction, mask):
    sensitive = mask if redaction.sensitive == "inside" else ~mask
    assert not (sensitive & ~redaction.region(mask)).any()


@given(redactions(), masks(), st.integers(0, 2**32))
def test_redacting_twice_changes_not_one_bit(redaction, mask, seed):
    region = redaction.region(mask)
    once = redaction.redact(noise_like(mask, seed), region)
    assert torch.equal(redaction.redact(once, region), once)


@given(redactions(), masks(), st.integers(0, 2**32))
def test_the_result_depends_on_public_pixels_and_mask_only(redaction, mask, seed):
    region = redaction.region(mask)
    one, other = noise_like(mask, seed), noise_like(mask, seed + 1)
    swapped = torch.where(region.unsqueeze(-1), other, one)
    assert torch.equal(redaction.redact(swapped, region), redaction.redact(one, region))


@given(redactions(), masks(), st.integers(0, 2**32))
def test_public_pixels_stay_as_they_are(redaction, mask, seed):
    video, region = noise_like(mask, seed), redaction.region(mask)
    redacted = redaction.redact(video, region)
    assert torch.equal(redacted[~region], video[~region])
    assert (redacted[region] == redaction.fill).all()
    assert redacted.dtype == torch.uint8


@given(redactions(), masks(), st.integers(0, 2**32))
def test_the_clip_that_came_is_left_alone(redaction, mask, seed):
    video, before = noise_like(mask, seed), noise_like(mask, seed)
    region = redaction.region(mask)
    redaction.redact(video, region)
    assert torch.equal(video, before)


@given(redactions(), masks(clips=3))
def test_the_clips_of_a_batch_do_not_meet(redaction, mask):
    together = redaction.region(mask)
    for index in range(3):
        assert torch.equal(redaction.region(mask[index]), together[index])


def test_the_check_of_public_pixels_can_fail():
    """A blur, in place of the fill, carries sensitive pixels out of the region."""
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 2:6, 2:6] = True
    one = noise_like(mask, 0)
    swapped = torch.where(mask.unsqueeze(-1), noise_like(mask, 1), one)

    def blurred(video):
        planes = video.movedim(-1, 2).flatten(0, 1).float()
        smooth = torch.nn.functional.avg_pool2d(planes, 3, 1, 1).unflatten(0, (1, 1)).movedim(2, -1)
        return torch.where(mask.unsqueeze(-1), smooth.to(torch.uint8), video)

    assert not torch.equal(blurred(one), blurred(swapped))
    redaction = Redaction(sensitive="inside")
    assert torch.equal(redaction.redact(one, mask), redaction.redact(swapped, mask))


def test_a_box_hides_motion_and_silhouette():
    mask = torch.zeros(2, 6, 6, dtype=torch.bool)
    mask[0, 1, 1] = mask[1, 4, 3] = True
    region = Redaction(sensitive="inside", shape="box").region(mask)
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[1:5, 1:4] = True
    assert torch.equal(region, expected.expand(2, 6, 6))


def test_partial_cells_at_the_border_are_enlarged_too():
    mask = torch.zeros(1, 5, 7, dtype=torch.bool)
    mask[0, 4, 6] = True
    region = Redaction(sensitive="inside", grid=3).region(mask)
    assert region[0, 3:, 6:].all()
    assert region.sum() == 2


@pytest.mark.parametrize("sensitive", ["inside", "outside"])
@pytest.mark.parametrize("shape", ["exact", "union", "box"])
def test_nothing_sensitive_gives_an_empty_region_and_everything_a_full_one(sensitive, shape):
    redaction = Redaction(sensitive=sensitive, shape=shape, grid=4, dilate=1)
    nothing = torch.full((1, 2, 6, 6), sensitive == "outside")
    assert not redaction.region(nothing).any()
    assert redaction.region(~nothing).all()


@pytest.mark.parametrize("region_shape", [(2, 5, 6), (2, 6, 5), (1, 6, 6), (6, 6)])
def test_a_region_of_another_size_is_refused(region_shape):
    with pytest.raises(ConfigError, match=r"region must have the video's frames, height and width, \(2, 6, 6\)"):
        Redaction(sensitive="inside").redact(torch.zeros(2, 6, 6, 3, dtype=torch.uint8), torch.zeros(region_shape) > 0)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("sensitive", "person"),
        ("sensitive", None),
        ("shape", "ellipse"),
        ("grid", 0),
        ("grid", 2.0),
        ("dilate", -1),
        ("dilate", True),
        ("dilate_frames", -1),
        ("dilate_frames", math.nan),
        ("fill", 256),
        ("fill", -1),
        ("fill", "grey"),
    ],
)
def test_wrong_arguments_are_refused_by_name(argument, value):
    with pytest.raises(ConfigError, match=rf"^redaction\.{argument} must be .* came"):
        Redaction(**{"sensitive": "inside", argument: value})


def test_which_side_is_sensitive_has_no_default():
    with pytest.raises(TypeError, match="sensitive"):
        Redaction()


def slow_resample(mask, size):
    """A new pixel is sensitive if the area that it stands for touches a sensitive pixel."""
    (height, width), (rows, columns) = mask.shape, size
    out = torch.zeros(size, dtype=torch.bool)
    for row in range(rows):
        for column in range(columns):
            top, bottom = row * height / rows, (row + 1) * height / rows
            left, right = column * width / columns, (column + 1) * width / columns
            for y, x in mask.nonzero().tolist():
                if y < bottom - 1e-9 and y + 1 > top + 1e-9 and x < right - 1e-9 and x + 1 > left + 1e-9:
                    out[row, column] = True
    return out


@settings(max_examples=60)
@given(masks(clips=1), st.integers(1, 12), st.integers(1, 12))
def test_resampling_a_mask_equals_any_overlap(mask, height, width):
    resampled = resample_mask(mask, (height, width))
    assert resampled.shape == (*mask.shape[:-2], height, width)
    assert resampled.dtype == torch.bool
    for small, large in zip(resampled.flatten(0, 1), mask.flatten(0, 1), strict=True):
        assert torch.equal(small, slow_resample(large, (height, width)))


def test_resampling_to_the_same_size_changes_nothing():
    mask = torch.rand(2, 3, 7, 5) < 0.5
    assert torch.equal(resample_mask(mask, (7, 5)), mask)


def test_a_thresholded_bilinear_mask_would_lose_a_pixel():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 3, 3] = 1
    bilinear = torch.nn.functional.interpolate(mask, (2, 2), mode="bilinear", antialias=True) > 0.5
    assert not bilinear.any()
    assert resample_mask(mask.bool(), (2, 2)).any()

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pvision.detection.dead_pixels import fill_dead
from pvision.detection.inputs import ImageInput
from pvision.detection.scaling import FixedRange, PercentileRange, PerImageRange, scaling_from_description
from pvision.errors import ConfigError, DataError

SCALINGS = [FixedRange(0, 100), PercentileRange(), PerImageRange()]
ids = [type(scaling).__name__ for scaling in SCALINGS]
NUMBERS = [
    torch.uint8,
    torch.int16,
    torch.uint16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


def ramp(height=6, width=8, channels=1):
    return torch.arange(channels * height * width, dtype=torch.float32).reshape(channels, height, width)


@pytest.mark.parametrize("scaling", SCALINGS, ids=ids)
@pytest.mark.parametrize("dtype", NUMBERS)
def test_every_type_of_number_gives_the_same_image(scaling, dtype):
    expected = ImageInput(1, scaling=scaling)(ramp())
    image = ImageInput(1, scaling=scaling)(ramp().to(dtype))
    assert image.dtype == torch.float32
    assert torch.equal(image, expected)


@pytest.mark.parametrize(("dtype", "top"), [(torch.uint16, 16383), (torch.uint16, 65535), (torch.int32, 2**30)])
def test_wide_counts_are_not_cut_to_eight_bits(dtype, top):
    raw = torch.tensor([[[0, top // 4, top // 2, top]]], dtype=torch.int64).to(dtype)
    image = ImageInput(1, scaling=FixedRange(0, top))(raw)
    torch.testing.assert_close(image, torch.tensor([[[0.0, 0.25, 0.5, 1.0]]]), atol=1e-4, rtol=0)


def test_sixteen_bits_of_either_byte_order_survive_where_pillows_grey_saturates():
    counts = np.array([[7000, 9500], [0, 65535]], dtype=np.uint16)
    saturated = np.asarray(Image.fromarray(counts).convert("L"))
    assert saturated.tolist() == [[255, 255], [0, 255]]  # what the input must not do
    to_image = ImageInput(1, scaling=FixedRange(0, 65535))
    image = to_image(torch.from_numpy(counts))
    assert len(image.unique()) == 4
    assert torch.equal(to_image(torch.from_numpy(counts.astype(">u2").astype(np.uint16))), image)


def test_kelvin():
    image = ImageInput(1, scaling=FixedRange(273.15, 313.15))(torch.tensor([[[273.15, 293.15, 400.0, 4.0]]]))
    torch.testing.assert_close(image, torch.tensor([[[0.0, 0.5, 1.0, 0.0]]]))


@pytest.mark.parametrize("scaling", SCALINGS, ids=ids)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_shapes(scaling, channels):
    to_image = ImageInput(channels, scaling=scaling)
    image = to_image(ramp(63, 65, channels))
    assert image.shape == (channels, 63, 65)
    assert torch.equal(to_image(ramp(63, 65, channels)[None])[0], image)
    assert torch.equal(
        to_image(ramp(65, 63, channels).transpose(1, 2)), to_image(ramp(65, 63, channels).mT.contiguous())
    )


def test_height_and_width_alone_are_one_channel():
    to_image = ImageInput(1, scaling=PerImageRange())
    assert torch.equal(to_image(ramp()[0]), to_image(ramp()))


@pytest.mark.parametrize("scaling", SCALINGS, ids=ids)
def test_images_of_a_batch_do_not_see_each_other(scaling):
    batch = torch.rand(4, 2, 9, 7, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 9, 90, 900]).reshape(
        4, 1, 1, 1
    )
    batch[2, 1, 3, 3] = torch.nan
    to_image = ImageInput(2, scaling=scaling)
    assert torch.equal(to_image(batch), torch.stack([to_image(image) for image in batch]))


@pytest.mark.parametrize("scaling", SCALINGS, ids=ids)
@pytest.mark.parametrize("value", [0.0, 7.5, 1e4, -3.0])
def test_a_constant_image_is_finite(scaling, value):
    image = ImageInput(1, scaling=scaling)(torch.full((1, 5, 5), value))
    assert image.isfinite().all()
    assert len(image.unique()) == 1


@pytest.mark.parametrize("scaling", SCALINGS, ids=ids)
def test_an_image_of_dead_pixels_only_is_black(scaling):
    assert not ImageInput(1, scaling=scaling, dead_values=[5])(torch.full((1, 5, 5), 5.0)).any()
    assert not ImageInput(1, scaling=scaling)(torch.full((1, 1, 1), torch.nan)).any()


def test_a_hot_pixel_changes_nothing_elsewhere_only_with_a_fixed_range():
    hot = ramp()
    hot[0, 0, 0] = 1e6
    others = torch.ones(6, 8, dtype=torch.bool)
    others[0, 0] = False
    fixed, least = ImageInput(1, scaling=FixedRange(0, 100)), ImageInput(1, scaling=PerImageRange())
    assert torch.equal(fixed(hot)[0][others], fixed(ramp())[0][others])
    assert least(hot)[0][others].max() < 0.001 < 0.9 < least(ramp())[0][others].max()


def test_only_a_fixed_range_keeps_temperatures_comparable():
    warmer = ramp() + 20
    for scaling, kept in zip(SCALINGS, (True, False, False), strict=True):
        to_image = ImageInput(1, scaling=scaling)
        assert bool((to_image(warmer) > to_image(ramp())).all()) is kept


@settings(deadline=None, max_examples=50)
@given(
    arrays(np.float32, (1, 7, 5), elements=st.floats(-1000, 1000, width=32)),
    arrays(np.bool_, (1, 7, 5)),
    st.sampled_from([(1.0, 99.0), (0.0, 100.0), (10.0, 50.0)]),
)
def test_percentiles_are_numpys_over_measured_pixels(values, dead, percent):
    raw = torch.from_numpy(np.where(dead, np.float32(np.nan), values))
    image = ImageInput(1, scaling=PercentileRange(*percent))(raw)
    assert ((image >= 0) & (image <= 1)).all()
    if not dead.all():
        low, high = np.percentile(values[~dead].astype(np.float64), percent)
        if high - low > 1e-2:
            expected = np.clip((values - low) / (high - low), 0, 1)
            np.testing.assert_allclose(image.numpy()[~dead], expected[~dead], atol=1e-3)


@settings(deadline=None, max_examples=50)
@given(
    arrays(np.float32, (2, 6, 9), elements=st.floats(0, 100, width=32)),
    arrays(np.bool_, (2, 6, 9)),
    st.sampled_from(SCALINGS),
    st.sampled_from([np.nan, np.inf, -np.inf, 3.4e38, -1.0]),
)
def test_dead_pixels_change_no_other(values, dead, scaling, mark):
    to_image = ImageInput(2, scaling=scaling, dead_values=[-1])
    other_mark = to_image(torch.from_numpy(np.where(dead, np.float32(-1), values)))
    image = to_image(torch.from_numpy(np.where(dead, np.float32(mark), values)))
    assert torch.equal(image, other_mark)
    assert ((image >= 0) & (image <= 1)).all()
    measured = torch.from_numpy(~dead)
    for channel in range(2):
        if measured[channel].any():  # what fills a hole lies between what was measured
            seen = image[channel][measured[channel]]
            assert image[channel].min() >= seen.min() - 1e-6
            assert image[channel].max() <= seen.max() + 1e-6


def test_without_dead_values_zero_is_a_measurement():
    raw = ramp() + 50
    raw[0, 2, 2] = 0
    assert ImageInput(1, scaling=FixedRange(0, 100))(raw)[0, 2, 2] == 0
    assert ImageInput(1, scaling=FixedRange(0, 100), dead_values=[0])(raw)[0, 2, 2] > 0.5


def test_a_hole_is_filled_from_its_neighbours():
    image, valid = ramp()[None] / 100, torch.ones(1, 1, 6, 8, dtype=torch.bool)
    valid[0, 0, 3, 4] = False
    torch.testing.assert_close(fill_dead(image.masked_fill(~valid, 9.0), valid), image)


@pytest.mark.parametrize("side", [1, 2, 3, 17, 40])
def test_one_measured_pixel_fills_the_whole_image(side):
    valid = torch.zeros(1, 1, side, side + 1, dtype=torch.bool)
    valid[0, 0, side // 2, 0] = True
    filled = fill_dead(torch.where(valid, 0.25, 9.0), valid)
    torch.testing.assert_close(filled, torch.full_like(filled, 0.25))


def test_the_nearest_measurements_fill_a_hole():
    valid = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    valid[0, 0, 2, 2] = valid[0, 0, 7, 7] = True
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 2, 2], image[0, 0, 7, 7] = 0.25, 0.75
    filled = fill_dead(image, valid)[0, 0]
    torch.testing.assert_close(filled[3, 3], torch.tensor(0.25))
    torch.testing.assert_close(filled[6, 6], torch.tensor(0.75))


@pytest.mark.parametrize("sign", [1, -1])
def test_dead_pixels_do_not_move_the_extremes(sign):
    raw = sign * (ramp() + 50)
    low, high = raw.min().item(), raw.max().item()
    raw[0, 3, 3] = torch.nan
    image = ImageInput(1, scaling=PerImageRange())(raw)
    alive = ~raw.isnan()
    torch.testing.assert_close(image[alive], ((raw - low) / (high - low))[alive])


def test_filling_leaves_measured_pixels_their_bits():
    image = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    valid = torch.rand(image.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    assert torch.equal(fill_dead(image, valid)[valid], image[valid])


@pytest.mark.parametrize("scaling", SCALINGS, ids=ids)
def test_an_exported_graph_fills_holes_that_its_example_had_not(scaling):
    to_image = ImageInput(2, scaling=scaling, dead_values=[0])
    whole = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0)) * 90 + 1
    holes = whole.clone()
    holes[0, 3, 3], holes[1, :4, :4] = 0, torch.nan
    exported = torch.export.export(to_image, (whole,)).module()
    assert torch.equal(exported(holes), to_image(holes))
    assert torch.equal(exported(whole), to_image(whole))


def test_ranges_per_channel():
    image = ImageInput(2, scaling=FixedRange([0, 1000], [10, 2000]))(torch.tensor([[[5.0]], [[1250.0]]]))
    assert image.flatten().tolist() == [0.5, 0.25]


@pytest.mark.parametrize("scaling", [*SCALINGS, FixedRange([0, 1], [2, 3])])
def test_a_description_survives_json(scaling):
    made = ImageInput(2, scaling=scaling, dead_values=(0, 65535))
    again = ImageInput.from_description(json.loads(json.dumps(made.describe())))
    assert repr(again) == repr(made)
    raw = ramp(5, 6, 2)
    assert torch.equal(again(raw), made(raw))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (torch.zeros(3, 4, 5), r"channels: 1.*\(3, 4, 5\) has 3"),
        (torch.zeros(4, 5, 1), "Its last axis fits: move it to the front"),
        (torch.zeros(4), r"shape \(4,\)"),
        (torch.zeros(1, 0, 5), r"shape \(1, 0, 5\)"),
        (torch.zeros(1, 1, 1, 4, 5), "channels, height, width"),
        (torch.zeros(1, 4, 5, dtype=torch.bool), "torch.bool"),
        (torch.zeros(1, 4, 5, dtype=torch.complex64), "torch.complex64"),
    ],
)
def test_wrong_images_are_refused(raw, message):
    with pytest.raises(DataError, match=message):
        ImageInput(1, scaling=FixedRange(0, 1))(raw)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedRange(5, 5), "high must be above low"),
        (lambda: FixedRange(0, float("nan")), "high must be a finite number"),
        (lambda: FixedRange("0", 1), "low must be a finite number"),
        (lambda: FixedRange(True, 2), "low must be a finite number"),
        (lambda: FixedRange([0, 0], [1]), "2 and 1 came"),
        (lambda: FixedRange([], []), "an empty list"),
        (lambda: PercentileRange(99, 1), "0 <= low < high <= 100"),
        (lambda: PercentileRange(0, 101), "0 <= low < high <= 100"),
        (lambda: ImageInput(0, scaling=PerImageRange()), "channels"),
        (lambda: ImageInput(1, scaling="percentile"), "scaling must be a Scaling"),
        (lambda: ImageInput(3, scaling=FixedRange([0, 0], [1, 1])), "ranges for 2 channels, but channels: 3"),
        (lambda: ImageInput(1, scaling=PerImageRange(), dead_values=["0"]), "dead_values"),
        (lambda: ImageInput.from_description({"channels": 1}), "dead_values"),
        (lambda: scaling_from_description({"name": "Log"}), "known are FixedRange"),
        (lambda: scaling_from_description({"name": "FixedRange", "low": 1}), "wrong settings"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()

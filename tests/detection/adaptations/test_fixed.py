"""Adaptations that learn nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_detectors import small_fcos

from pvision.detection.adaptations import (
    HistogramEqualisation,
    Inversion,
    InvertedEqualisation,
    ZeroShot,
    added_bytes,
    trainable_parameters,
)
from pvision.errors import ConfigError, DataError

ALL = [ZeroShot, Inversion, HistogramEqualisation, InvertedEqualisation]


def noise(channels=1, batch=2, size=(9, 13), seed=0):
    return torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels_becomes_three_from_0_to_1(kind, channels):
    seen = kind(channels).translate(noise(channels))
    assert seen.shape == (2, 3, 9, 13)
    assert seen.min() >= 0
    assert seen.max() <= 1


def test_one_channel_is_repeated_three_stay_and_others_are_averaged():
    one, two, three = noise(1), noise(2), noise(3)
    assert torch.equal(ZeroShot(1).translate(one), one.expand(-1, 3, -1, -1))
    assert torch.equal(ZeroShot(3).translate(three), three)
    assert torch.equal(ZeroShot(2).translate(two), two.mean(1, keepdim=True).expand(-1, 3, -1, -1))


def test_other_channels_than_announced_are_refused():
    with pytest.raises(DataError, match=r"must be \(B, 2, H, W\), but \(2, 3, 9, 13\) came.*in_channels"):
        ZeroShot(2).translate(noise(3))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("wrong", [0, -1, 1.0, True])
def test_a_wrong_number_of_channels_is_refused(kind, wrong):
    with pytest.raises(ConfigError, match="in_channels"):
        kind(wrong)


@pytest.mark.parametrize("wrong", [1, 0, 2.0])
def test_equalisation_needs_two_bins(wrong):
    with pytest.raises(ConfigError, match="bins"):
        HistogramEqualisation(bins=wrong)


def test_inverting_twice_is_the_identity():
    # On a grid that floats hold exactly.
    images = torch.arange(256).reshape(1, 1, 16, 16) / 256
    seen = ZeroShot(1).translate(images)
    once = Inversion(1).translate(images)
    assert torch.equal(Inversion(3).translate(once), seen)
    assert not torch.equal(once, seen)


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=40), st.integers(2, 300))
def test_equalisation_keeps_the_order_of_grey_values(values, bins):
    images = torch.tensor(values).reshape(1, 1, 1, -1)
    seen = HistogramEqualisation(bins=bins).translate(images)[0, 0, 0]
    order = torch.tensor(values).argsort()
    # Values of one bin become one value, but where the whole image is one bin.
    assert (seen[order].diff() >= 0).all()
    assert seen.isfinite().all()
    assert seen.min() >= 0
    assert seen.max() <= 1


@pytest.mark.parametrize("kind", [HistogramEqualisation, InvertedEqualisation])
def test_a_grey_value_becomes_the_share_of_darker_pixels(kind):
    images = torch.tensor([0.1, 0.1, 0.1, 0.5, 0.9]).reshape(1, 1, 1, 5)
    expected = {HistogramEqualisation: [0, 0, 0, 0.5, 1], InvertedEqualisation: [1, 1, 1, 0.25, 0]}
    assert kind().translate(images)[0, 0, 0].tolist() == expected[kind]


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_image_stays_as_it_is(value):
    images = torch.full((1, 1, 4, 5), value)
    assert torch.equal(HistogramEqualisation().translate(images), images.expand(-1, 3, -1, -1))


def test_images_and_channels_are_equalised_by_themselves():
    images = noise(3, batch=2)
    together = HistogramEqualisation(3).translate(images)
    for image in range(2):
        for channel in range(3):
            alone = HistogramEqualisation(1).translate(images[image, channel][None, None])
            assert torch.equal(together[image, channel], alone[0, 0])


@pytest.mark.parametrize("kind", ALL)
def test_they_freeze_the_detector_and_add_nothing(kind):
    detector = small_fcos()
    kind().attach(detector)
    assert detector.frozen
    assert trainable_parameters(detector, kind()) == 0
    assert added_bytes(detector, kind()) == 0


@pytest.mark.parametrize("adaptation", [ZeroShot(2), Inversion(3), HistogramEqualisation(1, bins=7)])
def test_a_description_makes_the_same_again(adaptation):
    again = type(adaptation).from_description(adaptation.describe())
    assert again.describe() == adaptation.describe()

"""What happens to an image before a network sees it."""

import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from pvision.datamodules.streams import Preprocessing
from pvision.datamodules.streams.preprocessing import PILOT_224
from pvision.errors import ConfigError, MissingExtraError

SEEDS = st.integers(0, 10_000)


def photo(height=50, width=70, channels=3):
    """A smooth image, uint8: interpolations agree on it better than on noise."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(rows / (7 + i) + columns / (11 - i)) for i in range(channels)]
    return torch.from_numpy(np.stack(waves).astype(np.uint8))


def noise(height=6, width=5):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, height, width), np.uint8))


def grey(pixels):
    """Back to uint8, for preprocessings that do not normalise."""
    return (pixels * 255).round().to(torch.uint8)


def test_the_normalisation_is_that_of_its_formula():
    image, mean, std = noise(), (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    expected = (image.numpy() / 255.0 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    got = Preprocessing(mean=mean, std=std).eval(image)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


def test_by_default_values_stay_between_zero_and_one():
    got = Preprocessing().eval(torch.tensor([[[0, 255]]], dtype=torch.uint8))
    assert got.flatten().tolist() == [0.0, 1.0]


def test_one_mean_serves_any_number_of_channels():
    assert Preprocessing(mean=(0.5,), std=(0.5,)).eval(photo(channels=1)).shape == (1, 50, 70)


@pytest.mark.parametrize(("interpolation", "size"), [("bilinear", 36), ("bicubic", 36), ("bilinear", (40, 36))])
def test_evaluation_is_what_the_fields_code_does_to_pillow_images(interpolation, size):
    from torchvision.transforms import v2

    older = v2.Compose(
        [
            v2.ToPILImage(),
            v2.Resize(size, interpolation=v2.InterpolationMode(interpolation)),
            v2.CenterCrop(32),
            v2.PILToTensor(),
        ]
    )
    got = grey(Preprocessing(resize=size, crop=32, interpolation=interpolation).eval(photo()))
    difference = (got.int() - older(photo()).int()).abs()
    assert got.shape == (3, 32, 32)
    assert difference.max() <= 1


@pytest.mark.parametrize("side", [16, 56, 70])
def test_grey_images_are_shown_to_networks_of_colours_at_any_size(side):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    grey_image = photo(side // 2, side // 2, channels=1)
    settings = {"resize": side, "interpolation": "bicubic"}
    got = Preprocessing(rgb=True, mean=mean, std=std, **settings).eval(grey_image)
    plain = Preprocessing(**settings).eval(grey_image)
    assert got.shape == (3, side, side)
    assert got.is_contiguous()
    for channel in range(3):
        torch.testing.assert_close(got[channel] * std[channel] + mean[channel], plain[0])


def test_digits_of_8_pixels_become_16_with_the_same_picture():
    digit = torch.arange(64, dtype=torch.uint8).view(1, 8, 8) * 3
    got = grey(Preprocessing(resize=16, interpolation="nearest", rgb=True).eval(digit))
    assert torch.equal(got, digit.repeat_interleave(2, 1).repeat_interleave(2, 2).expand(3, -1, -1))


@pytest.mark.parametrize("augment", ["none", "flip", "pad_crop_flip", "random_resized_crop"])
def test_grey_images_stay_grey_in_training(augment):
    got = Preprocessing(rgb=True, crop=24, augment=augment, brightness=0.3).train(photo(channels=1))
    assert got.shape == (3, 24, 24)
    assert torch.equal(got[0], got[1])
    assert torch.equal(got[0], got[2])
    got[0] = 0  # each channel has a memory of its own, so whoever writes into one changes no other
    assert got[1].max() > 0


def test_coloured_images_keep_their_colours():
    assert torch.equal(Preprocessing(rgb=True).eval(noise()), Preprocessing().eval(noise()))


@pytest.mark.parametrize("channels", [2, 4])
def test_images_that_are_neither_grey_nor_coloured_cannot_be_shown_as_rgb(channels):
    with pytest.raises(ConfigError, match=rf"preprocessing\.rgb .* but the images have {channels} channels\. Leave"):
        Preprocessing(rgb=True).eval(photo(channels=channels))


def test_evaluation_draws_nothing():
    before = torch.get_rng_state()
    PILOT_224.eval(photo())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(augment="flip"),
        Preprocessing(augment="pad_crop_flip", brightness=0.2),
        Preprocessing(augment="random_resized_crop", crop=24),
    ],
    ids=lambda preprocessing: preprocessing.augment,
)
def test_augmentation_follows_from_torchs_generator_alone(preprocessing):
    def draw(seed, other):
        torch.manual_seed(seed)
        random.seed(other)
        np.random.seed(other)  # noqa: NPY002  # the global generator is what must not matter
        return torch.stack([preprocessing.train(photo()) for _ in range(8)])

    assert torch.equal(draw(1, other=1), draw(1, other=2))
    assert not torch.equal(draw(1, other=1), draw(2, other=1))


def test_augmentation_leaves_the_other_generators_alone():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002  # the global generator

    before = states()
    Preprocessing(augment="random_resized_crop", crop=24, brightness=0.2).train(photo())
    assert states() == before


def windows(image, padding):
    """All windows of the padded image, and their mirror images, found the slow way."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[:, top : top + height, left : left + width]
            yield window.numpy().tobytes()
            yield window.flip(-1).contiguous().numpy().tobytes()


def test_pad_crop_flip_shows_every_window_and_nothing_else():
    image, allowed = noise(), set(windows(noise(), 2))
    preprocessing = Preprocessing(augment="pad_crop_flip", padding=2)
    shown = {grey(preprocessing.train(image)).contiguous().numpy().tobytes() for _ in range(1500)}
    assert len(allowed) == 50
    assert shown == allowed


@given(SEEDS)
def test_flip_shows_the_image_or_its_mirror_image(seed):
    torch.manual_seed(seed)
    got = grey(Preprocessing(augment="flip").train(noise()))
    assert torch.equal(got, noise()) or torch.equal(got, noise().flip(-1))


def test_flip_mirrors_half():
    image = noise()
    mirrored = sum(torch.equal(grey(Preprocessing(augment="flip").train(image)), image.flip(-1)) for _ in range(1000))
    assert 400 < mirrored < 600


def test_without_augmentation_training_sees_what_evaluation_sees():
    preprocessing = Preprocessing(resize=36, crop=32)
    assert torch.equal(preprocessing.train(photo()), preprocessing.eval(photo()))


def test_a_random_resized_crop_takes_parts_of_the_area_that_was_asked_for():
    # An image of which each pixel tells its column: the spread of a crop's columns is its width.
    columns = torch.arange(100, dtype=torch.uint8).expand(1, 100, 100)
    crop = Preprocessing(augment="random_resized_crop", crop=32, scale=(0.25, 0.3), crop_interpolation="nearest")
    shown = [grey(crop.train(columns)).int() for _ in range(300)]
    widths = np.array([int(image.max() - image.min()) + 1 for image in shown])
    # The area is a quarter of the image or a little more; the sides differ by a third at most.
    assert shown[0].shape == (1, 32, 32)
    assert widths.min() >= 40
    assert widths.max() <= 65
    assert widths.std() > 1


def test_the_whole_image_as_crop_is_the_image_or_its_mirror_image():
    image = noise(8, 8)
    crop = Preprocessing(augment="random_resized_crop", crop=8, scale=(1.0, 1.0))
    shown = [grey(crop.train(image)) for _ in range(40)]
    exact = [torch.equal(one, image) or torch.equal(one, image.flip(-1)) for one in shown]
    assert any(exact)  # the others have another shape of rectangle


@given(SEEDS)
def test_brightness_multiplies_all_pixels_by_one_number(seed):
    torch.manual_seed(seed)
    image = photo()
    got = Preprocessing(brightness=63 / 255).train(image)
    ratios = (got / (image / 255.0))[(image > 20) & (got < 1)]
    assert ratios.min() >= 1 - 63 / 255 - 1e-5
    assert ratios.max() <= 1 + 63 / 255 + 1e-5
    assert ratios.max() - ratios.min() < 1e-5
    assert got.max() <= 1


def test_brightness_is_for_training_only():
    assert torch.equal(Preprocessing(brightness=0.5).eval(photo()), Preprocessing().eval(photo()))


def test_pilot_makes_224_pixels_of_any_image():
    for image in (photo(), photo(300, 20), photo(8, 8)):
        assert PILOT_224.train(image).shape == PILOT_224.eval(image).shape == (3, 224, 224)


def test_resizing_names_the_extra_and_the_rest_needs_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.transforms", None)
    for augment in ("none", "flip", "pad_crop_flip"):
        assert Preprocessing(augment=augment, brightness=0.1).train(photo()).shape == (3, 50, 70)
    for needs in (Preprocessing(resize=8), Preprocessing(crop=8)):
        with pytest.raises(MissingExtraError, match=r"torchvision.*pvision\[continual\]"):
            needs.eval(photo())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resize": 0}, "resize must be a whole number"),
        ({"resize": (8, 8, 8)}, "one number or height and width"),
        ({"resize": (8, -1)}, "resize must be a whole number"),
        ({"crop": 2.5}, "crop must be a whole number"),
        ({"mean": (0.5, 0.5)}, "2 and 1 came"),
        ({"mean": (), "std": ()}, "0 and 0 came"),
        ({"mean": (float("nan"),)}, "mean must be a finite number"),
        ({"std": (0.0,)}, "std must be a finite number above 0"),
        ({"augment": "mixup"}, "'pad_crop_flip', but 'mixup' came"),
        ({"augment": "random_resized_crop"}, "needs preprocessing.crop"),
        ({"scale": (0.5, 0.1)}, "smaller first"),
        ({"scale": (0.5, 1.5)}, "none above 1"),
        ({"scale": (0.0, 1.0)}, "scale must be a finite number above 0"),
        ({"padding": 0}, "padding must be a whole number"),
        ({"brightness": 1.5}, "at most 1"),
        ({"brightness": -0.1}, "at least 0"),
        ({"interpolation": "lanczos"}, "'bicubic', but 'lanczos' came"),
        ({"crop_interpolation": 3}, "crop_interpolation must be one of"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Preprocessing(**arguments)


def test_another_number_of_channels_is_named():
    with pytest.raises(ConfigError, match=r"3 numbers, but the images have 1 channels.*preprocessing\.rgb: true"):
        Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3).eval(photo(channels=1))


def test_pixels_that_are_scaled_already_are_refused():
    with pytest.raises(ConfigError, match=r"must be uint8.*torch.float32 came"):
        Preprocessing().eval(photo() / 255)


def test_it_is_built_from_a_recipe():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--preprocessing", type=Preprocessing | None, default=None)
    text = "{resize: [40, 36], crop: 32, mean: [0.5, 0.4, 0.3], std: [0.2, 0.2, 0.2], augment: random_resized_crop}"
    built = parser.instantiate_classes(parser.parse_args([f"--preprocessing={text}"])).preprocessing
    expected = Preprocessing(
        resize=(40, 36), crop=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), augment="random_resized_crop"
    )
    assert torch.equal(built.eval(photo()), expected.eval(photo()))
    assert built.augment == expected.augment

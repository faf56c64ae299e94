"""Learned pictures that are the same for every image."""

import pytest
import torch
from small_detectors import boxes_and_images, small_fcos

from pvision.detection.adaptations import VisualPrompt, ZeroShot, trainable_parameters
from pvision.errors import ConfigError

KINDS = ["padding", "full", "weight_map"]


def noise(size=(20, 30)):
    return torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(20, 30), (33, 17)])
def test_it_starts_as_no_adaptation(kind, size):
    assert torch.equal(
        VisualPrompt(kind, image_size=(20, 30)).translate(noise(size)), ZeroShot(1).translate(noise(size))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_through_the_frozen_detector_and_stays_between_0_and_1(kind):
    detector = small_fcos()
    prompt = VisualPrompt(kind, image_size=(64, 64))
    prompt.attach(detector)
    images, targets = boxes_and_images(2, seed=0)
    sum(detector.loss(prompt([image[:1] for image in images]), targets).values()).backward()
    assert prompt.prompt.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in detector.parameters())
    with torch.no_grad():
        prompt.prompt.normal_(0, 5)
    seen = prompt.translate(noise((64, 64)))
    assert seen.min() >= 0
    assert seen.max() <= 1
    assert not torch.equal(seen, ZeroShot(1).translate(noise((64, 64))))


def test_padding_changes_the_border_only_and_holds_no_more():
    prompt = VisualPrompt("padding", image_size=(20, 30), width=3)
    assert trainable_parameters(small_fcos().freeze(), prompt) == 3 * (20 * 30 - 14 * 24)
    with torch.no_grad():
        prompt.prompt.fill_(0.5)
    changed = (prompt.translate(noise()) != ZeroShot(1).translate(noise())).any(dim=(0, 1))
    assert not changed[3:-3, 3:-3].any()
    assert changed[:3].all()
    assert changed[-3:].all()
    assert changed[:, :3].all()
    assert changed[:, -3:].all()


def test_a_weight_map_multiplies():
    prompt = VisualPrompt("weight_map", image_size=(20, 30))
    with torch.no_grad():
        prompt.prompt.fill_(-1)
    assert not prompt.translate(noise()).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "random", "image_size": (8, 8)}, "kind must be one of 'padding', 'full', 'weight_map'"),
        ({"kind": "full", "image_size": (8, 8), "width": 2}, "width belongs to the kind 'padding'"),
        ({"kind": "padding", "image_size": (8, 20), "width": 4}, "leave some of the 8 x 20 pixels free"),
        ({"kind": "padding", "image_size": (2, 2)}, "leave some of the 2 x 2 pixels free"),
        ({"image_size": (8, 8, 3)}, "image_size must be height and width"),
        ({"image_size": (8, 0)}, "image_size must be a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        VisualPrompt(**settings)


@pytest.mark.parametrize("kind", KINDS)
def test_a_description_makes_the_same_again(kind):
    prompt = VisualPrompt(kind, image_size=(20, 30), in_channels=2)
    again = VisualPrompt.from_description(prompt.describe())
    assert again.describe() == prompt.describe()
    assert again.prompt.shape == prompt.prompt.shape

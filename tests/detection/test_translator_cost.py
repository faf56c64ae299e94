import pytest
import torch
from torch import nn

from pvision.detection.detectors.detector import Detector
from pvision.detection.small_unet import PRESETS
from pvision.detection.translator import ModalityTranslator
from pvision.detection.translator_cost import multiply_adds, translator_multiply_adds, translator_within
from pvision.errors import ConfigError

SIZE = (96, 128)
COST = 96 * 128 * 9 * 3 * 400


class OneConvolution(Detector):
    """Takes `COST` multiply-adds for an image and finds nothing."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 400, 3, padding=1), ["person"])

    def loss(self, images, targets):
        raise NotImplementedError

    def predict(self, images):
        self.network(images[0])
        return []

    def head_parameters(self):
        return []


@pytest.fixture(scope="module")
def detector():
    return OneConvolution()


def test_a_convolution_is_counted_by_hand():
    layer = nn.Conv2d(2, 5, 3, padding=1)
    assert multiply_adds(layer, torch.zeros(4, 2, 6, 7)) == 4 * 6 * 7 * 5 * 2 * 9


def test_a_detector_is_counted_by_its_predictions(detector):
    assert multiply_adds(detector.predict, [torch.zeros(3, *SIZE)]) == COST


def test_counting_changes_nothing_and_makes_no_gradients():
    layer = nn.Linear(3, 5)
    seen = []
    with torch.enable_grad():
        multiply_adds(lambda images: seen.append(layer(images)), torch.zeros(2, 3))
    assert not seen[0].requires_grad


def test_half_the_resolution_costs_a_quarter():
    full, half = (ModalityTranslator(1, network="small", resolution=part) for part in (1.0, 0.5))
    assert translator_multiply_adds(full, image_size=SIZE) == 4 * translator_multiply_adds(half, image_size=SIZE)


def test_the_count_needs_no_numbers():
    translator = ModalityTranslator(1, network="tiny")
    expected = translator_multiply_adds(translator, image_size=SIZE)
    assert translator_multiply_adds(translator.to("meta"), image_size=SIZE) == expected


def test_presets_grow():
    costs = [translator_multiply_adds(ModalityTranslator(1, network=name), image_size=SIZE) for name in PRESETS]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1] / 10


@pytest.mark.parametrize("share", [0.05, 0.25, 1.0])
def test_the_largest_translator_within_the_share_is_chosen(detector, share):
    chosen = translator_within(detector, image_size=SIZE, share=share, in_channels=2, fusion="affine")
    cost = translator_multiply_adds(chosen, image_size=SIZE)
    assert cost <= share * COST
    assert chosen.in_channels == 2
    assert chosen.fusion.name == "affine"
    assert all(parameter.device.type == "cpu" for parameter in chosen.parameters())
    for network in PRESETS:
        for resolution in (1.0, 0.5, 0.25):
            other = ModalityTranslator(2, network=network, fusion="affine", resolution=resolution)
            other_cost = translator_multiply_adds(other, image_size=SIZE)
            assert other_cost <= cost or other_cost > share * COST


def test_a_larger_share_allows_more(detector):
    small, large = (translator_within(detector, image_size=SIZE, share=share) for share in (0.05, 1.0))
    assert translator_multiply_adds(small, image_size=SIZE) < translator_multiply_adds(large, image_size=SIZE)


def test_a_share_that_no_translator_meets_is_refused(detector):
    with pytest.raises(ConfigError, match=r"share: 1e-06 .* 96 x 128 pixels.*Raise share"):
        translator_within(detector, image_size=SIZE, share=1e-6)


@pytest.mark.parametrize(("name", "value"), [("share", 0.0), ("share", 1.5), ("image_size", (0, 5))])
def test_wrong_settings_are_refused(detector, name, value):
    with pytest.raises(ConfigError, match=name):
        translator_within(detector, **{"image_size": SIZE, name: value})

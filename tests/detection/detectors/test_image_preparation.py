"""Images as transformers' own processors make them, with gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pvision.detection.detectors.image_preparation import ImagePreparation
from pvision.errors import ConfigError

LENGTHS = st.integers(1, 3000)


@given(height=LENGTHS, width=LENGTHS)
def test_sizes_keep_the_shape_and_both_limits(height: int, width: int) -> None:
    new = ImagePreparation(min_size=80, max_size=133).size_of(height, width)

    assert min(new) <= 80
    assert max(new) <= 133
    assert min(new) == 80 or max(new) == 133
    ratio = new[0] / height
    assert abs(new[1] - max(1, width * ratio)) <= 1 + width / height


def test_it_does_what_the_processor_of_detr_does() -> None:
    from transformers import DetrImageProcessor

    images = [torch.rand(3, 48, 64), torch.rand(3, 100, 50)]
    processor = DetrImageProcessor(size={"shortest_edge": 40, "longest_edge": 60}, do_rescale=False)
    theirs = processor(images, return_tensors="pt", do_rescale=False)

    ours = ImagePreparation.from_processor(processor.to_dict())(images)

    torch.testing.assert_close(ours.values, theirs["pixel_values"], atol=1e-4, rtol=0)
    assert torch.equal(ours.mask, theirs["pixel_mask"])


def test_gradients_reach_each_pixel_and_padding_is_marked() -> None:
    small = torch.rand(3, 10, 20, requires_grad=True)
    large = torch.rand(3, 20, 20)

    values, mask = ImagePreparation(min_size=20, max_size=20)([small, large])
    values.sum().backward()

    assert values.shape == (2, 3, 20, 20)
    assert mask.sum((1, 2)).tolist() == [200, 400]
    assert not values[0, :, 10:].any()
    assert bool((small.grad != 0).all())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": {"shortest_edge": 5, "longest_edge": 9}}, ImagePreparation(min_size=5, max_size=9)),
        ({"size": 5, "max_size": 9}, ImagePreparation(min_size=5, max_size=9)),
        (
            {"size": {"height": 6, "width": 7}, "do_normalize": False},
            ImagePreparation(fixed_size=(6, 7), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        ),
    ],
    ids=["edges", "numbers", "fixed"],
)
def test_what_a_stored_processor_says(settings: dict, expected: ImagePreparation) -> None:
    assert ImagePreparation.from_processor(settings) == expected


@pytest.mark.parametrize("settings", [{}, {"size": {"max_height": 9, "max_width": 9}}, {"do_resize": False}])
def test_a_stored_processor_of_another_kind_is_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match="Give an ImagePreparation of your own"):
        ImagePreparation.from_processor(settings)


@pytest.mark.parametrize(
    "settings", [{"min_size": 0}, {"max_size": 1.5}, {"fixed_size": (0, 5)}, {"std": (1.0, 0.0, 1.0)}, {"mean": (0.5,)}]
)
def test_wrong_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match="must be"):
        ImagePreparation(**settings)

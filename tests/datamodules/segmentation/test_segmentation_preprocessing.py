"""From stored images and masks to what a network sees: both change together."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pvision.datamodules.segmentation import CROP_513, SegmentationPreprocessing
from pvision.errors import ConfigError

PLAIN = {"mean": (0, 0, 0), "std": (1 / 255,) * 3}  # values stay as they are stored


def pair(height, width, block=1, seed=0):
    """An image whose pixels are its labels, in blocks."""
    random = torch.Generator().manual_seed(seed)
    blocks = torch.randint(1, 9, (-(-height // block), -(-width // block)), generator=random, dtype=torch.uint8)
    mask = blocks.repeat_interleave(block, 0).repeat_interleave(block, 1)[:height, :width].contiguous()
    return mask.expand(3, -1, -1).contiguous(), mask


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    crop=st.integers(1, 12),
    flip=st.booleans(),
    seed=st.integers(0, 99),
)
def test_image_and_mask_get_the_same_window_and_mirror(height, width, crop, flip, seed):
    torch.manual_seed(seed)
    image, mask = SegmentationPreprocessing(crop=crop, flip=flip, **PLAIN).train(*pair(height, width))
    assert image.shape == (3, crop, crop)
    assert mask.shape == (crop, crop)
    inside = mask != 255
    assert torch.equal(image[0][inside].round(), mask[inside].float())
    assert (image[:, ~inside] == 0).all()
    assert int(inside.sum()) == min(height, crop) * min(width, crop)


def test_an_image_smaller_than_the_window_is_whole_in_it():
    image, mask = pair(3, 5)
    for seed in range(20):
        torch.manual_seed(seed)
        _, seen = SegmentationPreprocessing(crop=8, flip=False, **PLAIN).train(image, mask)
        rows, columns = (seen != 255).nonzero(as_tuple=True)
        assert torch.equal(seen[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], mask)


def test_windows_and_mirrors_vary():
    image, mask = pair(6, 6)
    made = SegmentationPreprocessing(crop=4, **PLAIN)
    seen = {tuple(made.train(image, mask)[1].flatten().tolist()) for _ in range(200)}
    assert len(seen) == 2 * 9


def test_what_lies_outside_is_the_mean():
    made = SegmentationPreprocessing(crop=4, flip=False, mean=(0.2, 0.4, 0.6), std=(0.5, 0.5, 0.5))
    image, mask = made.train(torch.full((3, 2, 2), 51, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.uint8))
    pixels = image * 0.5 + torch.tensor([0.2, 0.4, 0.6])[:, None, None]
    assert torch.allclose(pixels[:, mask == 1], torch.full((3, 4), 0.2))
    assert torch.allclose(pixels[:, mask == 255].mean(1), torch.tensor([0.2, 0.4, 0.6]))


@given(seed=st.integers(0, 200))
@settings(max_examples=30)
def test_scaling_makes_up_no_label_and_keeps_image_and_mask_together(seed):
    torch.manual_seed(seed)
    image, mask = pair(48, 64, block=16, seed=seed)
    made = SegmentationPreprocessing(scale=(0.5, 2.0), crop=40, **PLAIN)
    image, seen = made.train(image, mask)
    inside = seen != 255
    assert set(seen[inside].unique().tolist()) <= set(mask.unique().tolist())
    # Two pixels away from the next block, and from the window's edge, nothing is mixed.
    labels = seen.float()[None]
    largest, smallest = F.max_pool2d(labels, 5, 1)[0], -F.max_pool2d(-labels, 5, 1)[0]
    image, seen, inside = image[:, 2:-2, 2:-2], seen[2:-2, 2:-2], inside[2:-2, 2:-2]
    pure = inside & (largest == smallest)
    assert pure.any()
    assert torch.equal(image[0][pure].round(), seen[pure].float())


def test_scaling_does_not_shift_the_mask_against_the_image():
    made = SegmentationPreprocessing(scale=(0.25, 0.25), crop=16, flip=False, **PLAIN)
    columns, shifts = torch.arange(16), []
    for left in range(20, 28):
        image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        image[:, :, left : left + 16] = 200
        seen, labels = made.train(image, (image[0] > 0).to(torch.uint8))
        shifts.append(
            float((labels[0] * columns).sum() / labels.sum() * 16 - (seen[0, 0] * columns).sum() / seen[0, 0].sum())
        )
    # On average an eighth of a pixel; "nearest" would shift by three eighths.
    assert abs(sum(shifts) / len(shifts)) < 0.2


def test_evaluation_leaves_size_and_pixels():
    image, _ = pair(5, 7)
    made = SegmentationPreprocessing(scale=(0.5, 2.0), crop=4, **PLAIN)
    assert torch.allclose(made.eval(image), image.float())


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 20), (20, 8), (5, 9), (4, 4)])
def test_crop_evaluation_sees_the_middle_of_the_short_side(height, width):
    made = SegmentationPreprocessing(eval_crop=8, **PLAIN)
    image, mask = made.centre(*pair(height, width))
    assert image.shape == (3, 8, 8)
    assert mask.shape == (8, 8)
    if min(height, width) == 8:
        top, left = (height - 8) // 2, (width - 8) // 2
        assert torch.equal(mask, pair(height, width)[1][top : top + 8, left : left + 8])
        assert torch.equal(image[0], mask)


def test_the_fields_windows():
    assert (CROP_513.scale, CROP_513.crop, CROP_513.eval_crop) == ((0.5, 2.0), 513, 513)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": (2.0, 0.5), "crop": 4}, "smaller first"),
        ({"scale": (0.0, 1.0), "crop": 4}, r"preprocessing\.scale must be a finite number above 0"),
        ({"scale": (0.5, 2.0)}, r"Set preprocessing\.crop"),
        ({"crop": 0}, r"preprocessing\.crop"),
        ({"eval_crop": 0}, r"preprocessing\.eval_crop"),
        ({"mean": (0.5,), "std": (0.5,)}, "one number for each of 3 channels"),
        ({"std": (1.0, 0.0, 1.0)}, r"preprocessing\.std"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SegmentationPreprocessing(**arguments)


def test_wrong_images_and_a_crop_without_a_size_are_refused():
    image, mask = pair(4, 4)
    with pytest.raises(ConfigError, match=r"must be uint8 \(3, H, W\)"):
        SegmentationPreprocessing().eval(image.float())
    with pytest.raises(ConfigError, match=r"needs preprocessing\.eval_crop"):
        SegmentationPreprocessing().centre(image, mask)

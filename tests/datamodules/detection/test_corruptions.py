"""Corrupted images: the same each time, as strong in any unit, boxes untouched."""

import pytest
import torch

from pvision.datamodules.detection.corruptions import CORRUPTIONS, Corrupted
from pvision.detection.records import DetectionBatch, no_boxes
from pvision.errors import ConfigError


class Two:
    """Two images, whose values are those of an 8-bit image times ``unit``, plus ``zero``."""

    names = ("a", "b")
    modality = "lwir"

    def __init__(self, *, unit: float = 1.0, zero: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(3)
        self.images = [torch.rand(1, 20, 30, generator=generator) * 255 * unit + zero for _ in self.names]

    def __len__(self) -> int:
        return 2

    def __getitem__(self, positions):
        return DetectionBatch(
            [self.images[place] for place in positions],
            [no_boxes() for _ in positions],
            [self.names[place] for place in positions],
            self.modality,
        )


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_changes_the_image_and_nothing_else(name):
    plain, spoilt = Two()[[0, 1]], Corrupted(Two(), name)[[0, 1]]
    assert spoilt.names == plain.names
    assert spoilt.modality == "lwir"
    assert len(Corrupted(Two(), name)) == 2
    for before, after in zip(plain.images, spoilt.images, strict=True):
        assert after.shape == before.shape
        assert torch.isfinite(after).all()
        assert not torch.allclose(after, before, atol=1)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_it_is_a_function_of_the_image_whatever_the_order(name):
    spoilt = Corrupted(Two(), name)
    both, alone = spoilt[[1, 0]].images, spoilt[[0]].images
    assert torch.equal(both[1], alone[0])


def test_noise_has_a_seed_and_differs_from_image_to_image():
    one, other = (Corrupted(Two(), "noise", seed=seed)[[0]].images[0] for seed in (1, 2))
    assert not torch.equal(one, other)
    same = Two()
    same.images = [same.images[0], same.images[0]]
    first, second = Corrupted(same, "noise")[[0, 1]].images
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_it_is_as_strong_in_any_unit(name):
    counts = Corrupted(Two(unit=50, zero=29_000), name)[[0]].images[0]
    bytes_ = Corrupted(Two(), name)[[0]].images[0]
    assert torch.allclose((counts - 29_000) / 50, bytes_, atol=0.1)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_is_a_stronger_one(name):
    plain = Two()[[0]].images[0]
    damage = [(Corrupted(Two(), name, severity=level)[[0]].images[0] - plain).norm() for level in range(1, 6)]
    assert damage == sorted(damage)
    assert damage[0] > 0


def test_a_constant_image_stays_finite():
    records = Two()
    records.images = [torch.full((1, 5, 5), 7.0)] * 2
    for name in CORRUPTIONS:
        assert torch.isfinite(Corrupted(records, name)[[0]].images[0]).all()


def test_what_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="noise"):
        Corrupted(Two(), "rain")
    with pytest.raises(ConfigError, match="from 1 to 5"):
        Corrupted(Two(), "noise", severity=6)

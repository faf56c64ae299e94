"""Cityscapes, read on a tiny copy of its layout."""

import numpy as np
import pytest
from PIL import Image

from pvision.datamodules.segmentation import CityscapesStream, SegmentationPreprocessing
from pvision.errors import DataError

EVALUATED = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def city(tmp_path):
    """Two cities with an image for training, one for validation; each mask holds all 34 values."""
    mask = np.arange(34, dtype=np.uint8)[None].repeat(3, 0)
    for place in (
        "train/aachen/aachen_000000_000019",
        "train/ulm/ulm_000001_000019",
        "val/lindau/lindau_000002_000019",
    ):
        write(tmp_path / f"leftImg8bit/{place}_leftImg8bit.png", np.full((3, 34, 3), 60, np.uint8))
        write(tmp_path / f"gtFine/{place}_gtFine_labelIds.png", mask)
        write(tmp_path / f"gtFine/{place}_gtFine_instanceIds.png", mask)
    return tmp_path


def stream(root, **changes):
    settings = {"complete": False, "preprocessing": SegmentationPreprocessing(flip=False), "seed": 0} | changes
    made = CityscapesStream(root=str(root), **settings)
    made.setup()
    return made


def test_the_34_values_become_19_classes_and_void(city):
    made = stream(city)
    expected = [EVALUATED.index(value) + 1 if value in EVALUATED else 255 for value in range(34)]
    assert made.test_source.mask(0)[0].tolist() == expected
    assert (made.class_names[0], made.class_names[11], made.class_names[18]) == ("road", "person", "bicycle")
    assert len(made.train_source) == 2


def test_there_is_no_background_but_hidden_classes_become_0_in_training(city):
    made = stream(city, task="14-1", batch_size=2)
    assert not made.has_background
    made.begin(2)
    (batch,) = made.train_dataloader()
    assert set(batch.mask.unique().tolist()) == {0, 16, 255}
    (test,) = made.test_dataloader()
    assert 0 not in test.mask


@pytest.mark.parametrize(("task", "steps"), [("14-1", 6), ("13-6", 2), ("13-1", 7), ("10-1", 10), ("offline", 1)])
def test_the_fields_tasks_fit(city, task, steps):
    assert len(stream(city, task=task).experiences) == steps


def test_counts_and_missing_files_are_named(city):
    with pytest.raises(DataError, match=r"leftImg8bit/train has 2 images, but 2975 are published"):
        stream(city, complete=True)
    (city / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"1 of the 2 masks .*ulm_000001_000019_gtFine_labelIds\.png"):
        stream(city)


def test_a_value_that_no_label_has_is_refused_with_the_files_name(city):
    path = city / "gtFine/val/lindau/lindau_000002_000019_gtFine_labelIds.png"
    write(path, np.full((3, 34), 34, np.uint8))
    with pytest.raises(DataError, match=r"lindau_000002_000019_gtFine_labelIds\.png holds the values .*34"):
        stream(city)


def test_a_missing_folder_is_named_with_the_place_to_get_it(city):
    with pytest.raises(DataError, match=r"there is no .*away/leftImg8bit/train and .*gtFine.*cityscapes-dataset\.com"):
        stream(city / "away")

"""ADE20K, read on a tiny copy of its layout."""

import numpy as np
import pytest
from PIL import Image

from pvision.datamodules.segmentation import ADE20KStream, SegmentationPreprocessing
from pvision.datamodules.segmentation.ade20k_classes import ADE20K_CLASSES
from pvision.errors import ConfigError, DataError


@pytest.fixture
def ade(tmp_path):
    """Fifteen training images with ten classes each, two for the test, all with some pixels of value 0."""
    root = tmp_path / "ADEChallengeData2016"
    for split, short, count in (("training", "train", 15), ("validation", "val", 2)):
        for number in range(count):
            name = f"ADE_{short}_{number + 1:08d}"
            image, mask = root / f"images/{split}/{name}.jpg", root / f"annotations/{split}/{name}.png"
            values = np.array([0, *range(10 * number + 1, 10 * number + 11)], np.uint8)
            for path, pixels in ((image, np.full((4, 11, 3), 90, np.uint8)), (mask, values[None].repeat(4, 0))):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root


def stream(root, **changes):
    settings = {"complete": False, "preprocessing": SegmentationPreprocessing(flip=False), "seed": 0} | changes
    made = ADE20KStream(root=str(root), **settings)
    made.setup()
    return made


def test_there_are_150_classes_in_the_order_of_the_benchmark():
    assert len(set(ADE20K_CLASSES)) == len(ADE20K_CLASSES) == 150
    assert (ADE20K_CLASSES[0], ADE20K_CLASSES[12], ADE20K_CLASSES[149]) == ("wall", "person", "flag")


@pytest.mark.parametrize("above", [0, 1])
def test_the_folder_is_found_from_where_it_lies(ade, above):
    made = stream([ade, ade.parent][above])
    assert (len(made.train_source), len(made.test_source)) == (15, 2)


@pytest.mark.parametrize(
    ("task", "sizes"),
    [
        ("100-50", [100, 50]),
        ("100-10", [100, *[10] * 5]),
        ("100-5", [100, *[5] * 10]),
        ("50-50", [50, 50, 50]),
        ("50-20", [50, *[20] * 5]),
    ],
)
def test_the_fields_tasks_fit(ade, task, sizes):
    assert [len(one.classes) for one in stream(ade, task=task).experiences] == sizes


def test_value_0_is_the_background_or_void(ade):
    background, void = stream(ade), stream(ade, other="void")
    assert (background.has_background, void.has_background) == (True, False)
    assert background.test_source.mask(0)[0].tolist() == list(range(11))
    assert void.test_source.mask(0)[0].tolist() == [255, *range(1, 11)]
    assert background.manifest() != void.manifest()


def test_void_stays_void_in_training_and_hidden_classes_become_0(ade):
    made = stream(ade, task="100-50", other="void", batch_size=15)
    made.begin(1)
    (batch,) = made.train_dataloader()
    assert len(batch.image) == 5  # the images of the last 50 classes
    assert 0 not in batch.mask
    assert set(batch.mask.unique().tolist()) == {*range(101, 151), 255}
    shifted = stream(ade, task="100-50", other="void", class_order=[*range(2, 151), 1], batch_size=15)
    (hidden,) = shifted.train_dataloader()
    assert 0 in hidden.mask  # the label 1 comes later
    assert 1 not in hidden.mask


def test_a_misspelt_reading_of_value_0_is_refused(ade):
    with pytest.raises(ConfigError, match=r"data\.other must be one of"):
        stream(ade, other="ignore")


def test_counts_and_missing_files_are_named(ade):
    with pytest.raises(DataError, match=r"images/training has 15 images, but 20210 are published"):
        stream(ade, complete=True)
    (ade / "annotations/training/ADE_train_00000003.png").unlink()
    with pytest.raises(DataError, match=r"1 of the 15 masks .*ADE_train_00000003\.png"):
        stream(ade)


def test_a_value_above_150_is_refused_with_the_files_name(ade):
    Image.fromarray(np.full((4, 11), 151, np.uint8)).save(ade / "annotations/validation/ADE_val_00000002.png")
    with pytest.raises(DataError, match=r"ADE_val_00000002\.png holds the values .*151"):
        stream(ade)


def test_a_missing_folder_is_named_with_the_place_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"ADE20K: there is no .*ADEChallengeData2016/images/training.*sceneparsing"):
        stream(tmp_path)

"""Scenes of stamps as a stream; the stamps are made here."""

import numpy as np
import pytest
from PIL import Image

from pvision.datamodules.segmentation import StampsStream
from pvision.datamodules.segmentation.stamp_files import STAMP_CLASSES
from pvision.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def stamps(tmp_path_factory):
    """Three discs of a colour of its own for each class."""
    root = tmp_path_factory.mktemp("stamps")
    rows, columns = np.mgrid[:14, :14] - 6.5
    for label, kind in enumerate(STAMP_CLASSES):
        for folder in kind.folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
        for name in kind.only[:3] or ("a", "b", "c"):
            pixels = np.zeros((14, 14, 4), np.uint8)
            pixels[...] = (13 * label, 255 - 13 * label, 120, 255)
            pixels[np.hypot(rows, columns) > 6] = 0
            Image.fromarray(pixels).save(root / kind.folders[0] / f"{name}.png")
    return root


def stream(root, **changes):
    settings = {"train_scenes": 40, "test_scenes": 6, "side": 24, "test_fraction": 0.4, "seed": 0} | changes
    made = StampsStream(root=str(root), **settings)
    made.setup()
    return made


def content(source):
    return [
        (source.image(place).numpy().tobytes(), source.mask(place).numpy().tobytes()) for place in range(len(source))
    ]


def test_scenes_come_class_by_class(stamps):
    made = stream(stamps, task="10-4")
    assert [len(one.classes) for one in made.experiences] == [10, 4, 4]
    batch = next(iter(made.train_dataloader()))
    assert batch.image.shape == (16, 3, 24, 24)
    assert set(batch.mask.unique().tolist()) <= {*range(11), 255}
    assert sum(len(batch.image) for batch in made.test_dataloader()) == 6


def test_scenes_are_drawn_by_their_own_seed(stamps):
    first, same, other = stream(stamps), stream(stamps, seed=5), stream(stamps, scene_seed=1)
    assert content(first.train_source) == content(same.train_source)
    assert content(first.test_source) == content(same.test_source)
    assert content(first.train_source) != content(other.train_source)
    assert first.manifest() != other.manifest()


def test_training_and_test_scenes_differ_and_more_scenes_begin_with_the_same(stamps):
    few, many = stream(stamps), stream(stamps, train_scenes=45, test_scenes=40)
    assert content(many.train_source)[:40] == content(few.train_source)
    assert not set(content(many.test_source)) & set(content(many.train_source))


def test_photographs_are_the_background_if_given(stamps, tmp_path):
    for number in range(3):
        Image.new("RGB", (40, 30), (200, 10 * number, 0)).save(tmp_path / f"{number}.png")
    made = stream(stamps, backgrounds=str(tmp_path))
    reds = made.train_source.image(0)[:, made.train_source.mask(0) == 0]
    assert (reds[0] > 120).float().mean() > 0.9
    assert made.manifest() != stream(stamps).manifest()


def test_missing_stamps_are_named_with_the_package(tmp_path):
    with pytest.raises(DataError, match=r"Tux Paint's stamps: there is no .*animals/birds.*tuxpaint-stamps-default"):
        stream(tmp_path)


@pytest.mark.parametrize("objects", [[3, 2], [2], [0, 2], [1, 2, 3]])
def test_a_wrong_number_of_objects_is_refused(stamps, objects):
    with pytest.raises(ConfigError, match=r"data\.objects"):
        stream(stamps, objects=objects)

"""PASCAL VOC, read on a tiny copy of its layout."""

import numpy as np
import pytest
import torch
from PIL import Image

from pvision.datamodules.segmentation import SegmentationPreprocessing, VOCSegmentationStream
from pvision.errors import ConfigError, DataError

TRAIN = [f"2007_{number:06d}" for number in range(20)]
VAL = ["2008_000001", "2008_000002"]
SMALL = SegmentationPreprocessing(crop=8)
PALETTE = [channel for number in range(256) for channel in ((37 * number) % 256, (91 * number) % 256, number)]


def labels(*values, size=(6, 9)):
    """A mask in stripes of these values, uint8 (H, W)."""
    return np.array(values, np.uint8)[np.arange(size[1]) * len(values) // size[1]][None].repeat(size[0], 0)


def save_mask(path, mask, *, palette):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette(PALETTE)
    image.save(path)


def save_image(path, size=(6, 9), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def voc(tmp_path):
    """Twenty training images, the n-th with the classes n and n + 1, in both forms of masks; two for the test."""
    root = tmp_path / "VOCdevkit/VOC2012"
    for number, name in enumerate(TRAIN):
        save_image(root / f"JPEGImages/{name}.jpg", seed=number)
        mask = labels(0, number + 1, 255, (number + 1) % 20 + 1)
        save_mask(root / f"SegmentationClass/{name}.png", mask, palette=True)
        save_mask(
            root / f"SegmentationClassAug/{name}.png", np.where(mask == 255, 0, mask).astype(np.uint8), palette=False
        )
    for name in VAL:
        save_image(root / f"JPEGImages/{name}.jpg")
        save_mask(root / f"SegmentationClass/{name}.png", labels(0, 20, 1, 255), palette=True)
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(TRAIN[:20]) + "\n")
    (lists / "train_aug.txt").write_text(
        "".join(f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png\n" for name in TRAIN)
    )
    (lists / "val.txt").write_text("\n".join(VAL) + "\n")
    return root


def stream(root, **changes):
    settings = {"complete": False, "preprocessing": SMALL, "seed": 0} | changes
    made = VOCSegmentationStream(root=str(root), **settings)
    made.setup()
    return made


@pytest.mark.parametrize("above", [0, 1, 2])
def test_the_folder_is_found_from_where_it_lies(voc, above):
    root = [voc, *voc.parents][above]
    made = stream(root)
    assert (len(made.train_source), len(made.test_source)) == (20, 2)
    assert made.names[0] == f"JPEGImages/{TRAIN[0]}.jpg"


def test_experiences_are_those_of_the_task(voc):
    assert [len(one.classes) for one in stream(voc, task="15-1").experiences] == [15, 1, 1, 1, 1, 1]
    assert [one.classes for one in stream(voc, task="19-1").experiences][1] == (20,)
    last = stream(voc, task="19-1").experiences[1]
    assert last.train.tolist() == [18, 19]  # overlapped: both images that contain the last class
    assert [len(one.classes) for one in stream(voc, task="offline").experiences] == [20]


@pytest.mark.parametrize("task", ["19-1", "15-5", "15-1", "10-10", "10-1", "5-3", "5-1", "2-2", "2-1", "offline"])
def test_the_fields_tasks_fit(voc, task):
    assert sum(len(one.classes) for one in stream(voc, task=task).experiences) == 20


def test_a_class_order_moves_classes_and_renames_none(voc):
    order = [*range(20, 0, -1)]
    made = stream(voc, task="19-1", class_order=order)
    assert made.experiences[1].classes == (1,)
    assert made.class_names[0] == "aeroplane"
    with pytest.raises(ConfigError, match="0, which is the background"):
        stream(voc, class_order=[0, *order[1:]])


def test_training_shows_the_experiences_classes_and_the_test_all(voc):
    made = stream(voc, task="19-1", augmented=False, batch_size=2)
    made.begin(1)
    (batch,) = made.train_dataloader()
    assert set(batch.mask.unique().tolist()) == {0, 20, 255}
    shown = torch.cat([batch.mask.flatten() for batch in made.test_dataloader()]).unique().tolist()
    assert shown == [0, 1, 20, 255]


def test_augmented_masks_are_those_of_their_own_folder(voc):
    official, augmented = stream(voc, augmented=False), stream(voc)
    assert 255 in official.train_source.mask(0)
    assert 255 not in augmented.train_source.mask(0)
    assert official.manifest() != augmented.manifest()


def test_both_forms_and_names_of_the_augmented_list_are_read(voc):
    lists = voc / "ImageSets/Segmentation"
    names = stream(voc).names
    (lists / "train_aug.txt").unlink()
    (lists / "trainaug.txt").write_text("\n".join(TRAIN) + "\n")
    assert stream(voc).names == names


@pytest.mark.parametrize(("augmented", "counts"), [(True, "20 images, but 10582"), (False, "20 images, but 1464")])
def test_incomplete_lists_are_refused(voc, augmented, counts):
    with pytest.raises(DataError, match=rf"PASCAL VOC 2012: .* has {counts} are published"):
        stream(voc, complete=True, augmented=augmented)


def test_without_the_augmented_masks_the_way_out_is_named(voc):
    (voc / "ImageSets/Segmentation/train_aug.txt").unlink()
    with pytest.raises(DataError, match=r"no .*train_aug\.txt\. .*data\.augmented to false"):
        stream(voc)
    assert len(stream(voc, augmented=False).names) == 20


def test_a_missing_folder_is_named_with_the_layout_and_the_place_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"no .*VOC2012/JPEGImages and .*Expected is .*Get it at http://host\.robots"):
        stream(tmp_path)


def test_missing_files_are_named(voc):
    (voc / f"JPEGImages/{TRAIN[3]}.jpg").unlink()
    with pytest.raises(DataError, match=rf"1 of the 20 images .* missing: .*{TRAIN[3]}\.jpg"):
        stream(voc)


def test_training_on_the_test_images_is_refused(voc):
    lists = voc / "ImageSets/Segmentation"
    (lists / "train.txt").write_text("\n".join(TRAIN + VAL[:1]))
    with pytest.raises(DataError, match=rf"1 images are in .*train\.txt and in .*val\.txt \({VAL[0]}\)"):
        stream(voc, augmented=False)


def test_a_list_that_leaves_the_folder_is_refused(voc):
    (voc / "ImageSets/Segmentation/val.txt").write_text("../../secret\n")
    with pytest.raises(DataError, match="leaves the data's folder"):
        stream(voc)


def test_a_label_that_voc_does_not_have_is_refused_with_the_files_name(voc):
    save_mask(voc / f"SegmentationClassAug/{TRAIN[5]}.png", labels(0, 21), palette=False)
    with pytest.raises(DataError, match=rf"{TRAIN[5]}\.png holds the values .*21"):
        stream(voc)


def test_masks_of_sixteen_bits_are_refused_with_the_files_name(voc):
    Image.fromarray(labels(0, 1).astype(np.uint16)).save(voc / f"SegmentationClassAug/{TRAIN[0]}.png")
    with pytest.raises(DataError, match=rf"{TRAIN[0]}\.png has colours, transparency or 16 bits"):
        stream(voc)


def test_masks_in_colours_are_refused_with_the_files_name(voc):
    save_image(voc / f"SegmentationClass/{VAL[0]}.png")
    with pytest.raises(DataError, match=rf"{VAL[0]}\.png has colours"):
        stream(voc)


def test_a_mask_of_another_size_is_refused_with_the_images_name(voc):
    save_mask(voc / f"SegmentationClass/{VAL[1]}.png", labels(0, 20, size=(5, 9)), palette=True)
    made = stream(voc)
    with pytest.raises(DataError, match=rf"{VAL[1]}\.jpg has 9 x 6 pixels and its mask 9 x 5"):
        list(made.test_dataloader())


def test_which_labels_masks_hold_can_be_kept(voc, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    first = stream(voc, presence_folder=str(kept)).manifest()
    assert len(list(kept.iterdir())) == 2
    assert stream(voc, presence_folder=str(kept)).manifest() == first

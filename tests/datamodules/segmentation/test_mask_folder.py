"""A user's own images with masks, in each layout."""

import numpy as np
import pytest
from PIL import Image

from pvision.continual.scenarios import SegmentationScenario
from pvision.datamodules import MaskFolderStream
from pvision.errors import ConfigError, DataError

NAMES = [f"{folder}/{number}" for folder in ("ann", "bob") for number in range(5)]


def write(images, masks, names=NAMES, *, suffix="", lowest=0):
    """Images whose pixels are their number, with masks of two values."""
    for number, name in enumerate(names):
        for root, kind, content in (
            (images, ".jpg", np.full((4, 6, 3), number, np.uint8)),
            (masks, f"{suffix}.png", np.repeat([[lowest + number % 2, lowest + 1 + number % 2]], 4, 0).repeat(3, 1)),
        ):
            path = root / f"{name}{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content.astype(np.uint8)).save(path)


def stream(root, **arguments):
    made = MaskFolderStream(
        **{
            "root": str(root),
            "class_names": ["cat", "dog"],
            "scenario": SegmentationScenario(task="1-1"),
            "batch_size": 4,
            "seed": 0,
            **arguments,
        }
    )
    made.setup()
    return made


def names(data):
    return set(data.train_source.names), set(data.test_source.names)


def test_split_folders_outside(tmp_path):
    for split, chosen in (("train", NAMES[:8]), ("test", NAMES[8:])):
        write(tmp_path / split / "images", tmp_path / split / "masks", chosen)
    train, test = names(stream(tmp_path))
    assert train == {f"train/images/{name}.jpg" for name in NAMES[:8]}
    assert test == {f"test/images/{name}.jpg" for name in NAMES[8:]}


def test_split_folders_inside_and_names_of_ones_own(tmp_path):
    for split, chosen in (("training", NAMES[:8]), ("validation", NAMES[8:])):
        write(tmp_path / "photos" / split, tmp_path / "labels" / split, chosen, suffix="_mask")
    own = {"images": "photos", "masks": "labels", "train": "training", "test": "validation", "mask_suffix": "_mask"}
    train, test = names(stream(tmp_path, **own))
    assert (len(train), len(test)) == (8, 2)


def test_lists(tmp_path):
    write(tmp_path / "images", tmp_path / "masks")
    (tmp_path / "train.txt").write_text("\n".join(NAMES[2:]) + "\n\n")
    (tmp_path / "test.txt").write_text("\n".join(f"{name}.jpg" for name in NAMES[:2]))
    train, test = names(stream(tmp_path))
    assert train == {f"images/{name}.jpg" for name in NAMES[2:]}
    assert test == {f"images/{name}.jpg" for name in NAMES[:2]}
    (tmp_path / "test.txt").write_text("bob/3.jpg\nann/0\n")
    with pytest.raises(DataError, match=r"share 1 images, the first .*bob/3\.jpg"):
        stream(tmp_path)
    (tmp_path / "test.txt").write_text("ann/77\n")
    with pytest.raises(DataError, match=r"1 images, of which 1 are not in the folder \(ann/77\)"):
        stream(tmp_path)
    (tmp_path / "test.txt").unlink()
    with pytest.raises(DataError, match=r"There is no list .*test\.txt"):
        stream(tmp_path)


def test_without_a_split_a_part_is_drawn_by_the_split_seed(tmp_path):
    write(tmp_path / "images", tmp_path / "masks")
    drawn = [names(stream(tmp_path, split_seed=seed, test_fraction=0.3)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    for train, test in drawn:
        assert len(test) == 3
        assert train | test == {f"images/{name}.jpg" for name in NAMES}
        assert not train & test


def test_images_come_with_their_own_masks(tmp_path):
    write(tmp_path / "images", tmp_path / "masks")
    data = stream(tmp_path, training_set="seen")
    data.begin(1)
    for batch in data.train_dataloader():
        for position, mask in zip(batch.position.tolist(), batch.mask, strict=True):
            number = NAMES.index(data.names[position].removeprefix("images/").removesuffix(".jpg"))
            assert set(mask.unique().tolist()) == {number % 2, number % 2 + 1}


def test_masks_without_a_background_count_from_0(tmp_path):
    write(tmp_path / "images", tmp_path / "masks")
    data = stream(
        tmp_path, class_names=["sky", "road", "car"], background=False, scenario=SegmentationScenario(task="2-1")
    )
    assert set(data.test_source.mask(0).unique().tolist()) <= {1, 2, 3}
    assert not data.has_background


def test_a_label_map_says_what_the_values_mean(tmp_path):
    write(tmp_path / "images", tmp_path / "masks", lowest=10)
    with pytest.raises(DataError, match=r"ann/0\.png holds the values 10, 11|holds the values 11, 12"):
        stream(tmp_path)
    data = stream(tmp_path, label_map={10: 0, 11: 2, 12: 1})
    assert data.manifest().settings["label_map"] == {"10": 0, "11": 2, "12": 1, "255": 255}
    assert data.experiences[0].classes == (1,)
    other = stream(tmp_path, label_map={10: 0, 11: 1, 12: 2})
    with pytest.raises(DataError, match="label_map"):
        other.load_state_dict(data.state_dict())


def test_which_labels_occur_is_kept_in_a_folder(tmp_path):
    write(tmp_path / "images", tmp_path / "masks")
    stream(tmp_path, presence_folder=str(tmp_path / "kept"))
    assert len(list((tmp_path / "kept").iterdir())) == 2
    before = set(tmp_path.rglob("*"))
    stream(tmp_path)
    assert set(tmp_path.rglob("*")) == before


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match="is no folder"):
        stream(tmp_path / "gone")
    with pytest.raises(DataError, match=r"There is no folder .*images.*Expected are"):
        stream(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        stream(tmp_path)
    write(tmp_path / "images", tmp_path / "masks")
    (tmp_path / "masks" / "bob" / "3.png").unlink()
    with pytest.raises(DataError, match=r"have no mask, the first .*bob/3\.png"):
        stream(tmp_path)
    write(tmp_path / "images", tmp_path / "masks")
    (tmp_path / "images" / "bob" / "3.png").write_bytes((tmp_path / "masks" / "bob" / "3.png").read_bytes())
    with pytest.raises(DataError, match=r"2 images bob/3\.\*"):
        stream(tmp_path)


def test_a_list_cannot_lead_outside(tmp_path):
    write(tmp_path / "images", tmp_path / "masks")
    (tmp_path / "train.txt").write_text("../secret\n")
    (tmp_path / "test.txt").write_text("ann/0\n")
    with pytest.raises(DataError, match="leaves the data's folder"):
        stream(tmp_path)


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.test_fraction"):
        stream(tmp_path, test_fraction=1.0)
    with pytest.raises(ConfigError, match="no value for the classes 2"):
        stream(tmp_path, label_map={0: 0, 1: 1})

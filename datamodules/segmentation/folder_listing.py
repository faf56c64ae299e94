"""Which images of a folder are for training and which for the test, and where their masks lie."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pvision.datamodules.detection.image_file import SUFFIXES
from pvision.datamodules.streams._image_lists import below, read_lines
from pvision.errors import DataError

__all__ = ["FolderNames", "SplitPairs", "list_pairs"]

_LAYOUT = (
    "ROOT/train/images and ROOT/test/images, ROOT/images/train and ROOT/images/test, or ROOT/images, with "
    "ROOT/train.txt and ROOT/test.txt if the split is given"
)


class FolderNames(NamedTuple):
    """What things are called in the user's folder.

    Attributes:
        images: the folder of the images.
        masks: the folder of the masks.
        train: the folder, or list without its suffix, of the training split.
        test: the same of the test.
        mask_suffix: what the name of a mask has between the name of its image and ``.png``.
    """

    images: str
    masks: str
    train: str
    test: str
    mask_suffix: str


class SplitPairs(NamedTuple):
    """The files of both splits, each image with its mask.

    Attributes:
        train: of the training.
        test: of the test.
    """

    train: list[tuple[Path, Path]]
    test: list[tuple[Path, Path]]


def list_pairs(root: Path, names: FolderNames, *, test_fraction: float, split_seed: int) -> SplitPairs:
    """Return the images and masks of both splits.

    Args:
        root: the folder.
        names: what things are called in it.
        test_fraction: the part of the images that is drawn for the test, where nothing says which they are.
        split_seed: draws them; a function of the sorted names.

    Raises:
        DataError: if the folder is in none of the layouts, a split is empty, or an image has no mask.
    """
    both = (names.train, names.test)
    for folders in (
        [(root / split / names.images, root / split / names.masks) for split in both],
        [(root / names.images / split, root / names.masks / split) for split in both],
    ):
        if all(images.is_dir() for images, _ in folders):
            train, test = (_pairs(images, masks, _images(images), names) for images, masks in folders)
            return SplitPairs(train, test)
    images, masks = root / names.images, root / names.masks
    if not images.is_dir():
        raise DataError(f"There is no folder {images}. Expected are {_LAYOUT}; name your folders with data.images.")
    found, lists = _images(images), [root / f"{split}.txt" for split in both]
    if any(path.is_file() for path in lists):
        train, test = (_pairs(images, masks, _listed(path, found), names) for path in lists)
        if both_splits := sorted({image for image, _ in train} & {image for image, _ in test}):
            raise DataError(
                f"{lists[0]} and {lists[1]} share {len(both_splits)} images, the first {both_splits[0]}, so that the "
                "test would measure what was learned by heart. List each in one."
            )
        return SplitPairs(train, test)
    if len(found) < 2:
        raise DataError(f"{images} has {len(found)} images, but a split needs two. Add some.")
    drawn = np.random.RandomState(split_seed).permutation(len(found))
    chosen = set(drawn[: min(len(found) - 1, max(1, round(len(found) * test_fraction)))].tolist())
    halves = [[name for place, name in enumerate(found) if (place in chosen) == tested] for tested in (False, True)]
    return SplitPairs(*(_pairs(images, masks, half, names) for half in halves))


def _images(folder: Path) -> list[str]:
    """Return the paths of all images below a folder, sorted; hidden files are left out.

    Raises:
        DataError: if there are none, or two would have the same mask.
    """
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES - {".npy"} and path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in files if not path.name.startswith("."))
    if not names:
        raise DataError(f"{folder} holds no images. Expected are {_LAYOUT}.")
    stem, count = Counter(name.rpartition(".")[0] for name in names).most_common(1)[0]
    if count > 1:
        raise DataError(f"{folder} holds {count} images {stem}.*, which would share a mask. Leave one.")
    return names


def _listed(path: Path, found: Sequence[str]) -> list[str]:
    """Return the images that a list names, with or without their suffix."""
    if not path.is_file():
        raise DataError(f"There is no list {path}, but there is one of the other split. Add it, or remove both.")
    by_stem = {name.rpartition(".")[0]: name for name in found}
    known = {**by_stem, **{name: name for name in found}}
    names = [below(cells[0], path) for cells in read_lines(path, 1, separator="\n")]
    missing = [name for name in names if name not in known]
    if missing or not names:
        raise DataError(
            f"{path} names {len(names)} images, of which {len(missing)} are not in the folder "
            f"({', '.join(missing[:3])}). Give one path per line, counted from the folder of the images."
        )
    return [known[name] for name in names]


def _pairs(images: Path, masks: Path, found: Sequence[str], names: FolderNames) -> list[tuple[Path, Path]]:
    stems = [name.rpartition(".")[0] for name in found]
    pairs = [(images / name, masks / f"{stem}{names.mask_suffix}.png") for name, stem in zip(found, stems, strict=True)]
    missing = [mask for _, mask in pairs if not mask.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(pairs)} images in {images} have no mask, the first {missing[0]}. A mask lies "
            "at the path of its image in the folder of the masks, as a PNG; data.mask_suffix says what else its name "
            "has."
        )
    return pairs

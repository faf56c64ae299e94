"""PASCAL VOC 2012 [0], with the masks of the Semantic Boundaries Dataset [1], class by class.

[0] Everingham, Van Gool, Williams, Winn, Zisserman: The PASCAL Visual Object Classes (VOC) Challenge. IJCV 2010.
[1] Hariharan, Arbeláez, Bourdev, Maji, Malik: Semantic Contours from Inverse Detectors. ICCV 2011.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pvision.datamodules.segmentation.label_map import LabelMap
from pvision.datamodules.segmentation.preprocessing import SegmentationPreprocessing
from pvision.datamodules.segmentation.published import Listing, Pair
from pvision.datamodules.segmentation.published_stream import Listings, PublishedSegmentation
from pvision.datamodules.streams._image_lists import below, read_lines, refuse_absent

__all__ = ["VOCSegmentationStream"]

_CLASSES = (
    "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, dining table, dog, horse, motorbike, person, "
    "potted plant, sheep, sofa, train, tv monitor"
)
_LAYOUT = "ROOT/VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}"
_AUGMENTED_LAYOUT = (
    "SegmentationClassAug/NAME.png, and train_aug.txt or trainaug.txt with 10,582 names in ImageSets/Segmentation, "
    "which DeepLab's authors and others pass on (docs/data_segmentation.md); or set data.augmented to false for the "
    "1,464 images of train.txt"
)
_LISTS = ("train_aug.txt", "trainaug.txt")
_AUGMENTED, _TRAIN, _VAL = 10_582, 1_464, 1_449


class VOCSegmentationStream(PublishedSegmentation):
    """PASCAL VOC 2012: 20 classes and background on photographs; 255 is the ring around objects.

    The field's tasks are 19-1, 15-5, 15-1, 10-10, 10-1, 5-3, 5-1, 2-2, 2-1 and offline. Training is on 10,582 images,
    VOC's and those of SBD; the test on the 1,449 of ``val.txt``.

    Args:
        root: the folder that holds ``VOCdevkit``, or ``VOCdevkit``, or ``VOC2012``.
        task: as `PublishedSegmentation`, like all that are not listed.
        augmented: train on 10,582 images with the masks of ``SegmentationClassAug``; else on 1,464, of ``train.txt``.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        ``VOCSegmentationStream(root="data", task="15-1", setting="overlapped")``
    """

    data = "PASCAL VOC 2012"
    site = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
    class_names = tuple(_CLASSES.split(", "))

    def __init__(
        self,
        *,
        root: str,
        task: str = "15-1",
        setting: Literal["overlapped", "disjoint", "partitioned", "sequential"] = "overlapped",
        augmented: bool = True,
        class_order: Sequence[int] | None = None,
        class_order_seed: int | None = None,
        assignment_seed: int = 0,
        void_as_background: bool = False,
        complete: bool = True,
        presence_folder: str | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        val_fraction: float = 0.0,
        training_set: Literal["current", "seen"] = "current",
        evaluation: Literal["full", "crop"] = "full",
        preprocessing: SegmentationPreprocessing | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            root=root,
            task=task,
            setting=setting,
            class_order=class_order,
            class_order_seed=class_order_seed,
            assignment_seed=assignment_seed,
            void_as_background=void_as_background,
            complete=complete,
            presence_folder=presence_folder,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            val_fraction=val_fraction,
            training_set=training_set,
            evaluation=evaluation,
            preprocessing=preprocessing,
            seed=seed,
        )
        self.augmented = bool(augmented)

    @property
    def label_map(self) -> LabelMap:
        """0 is the background, 1 to 20 are the classes, 255 is void."""
        return LabelMap.in_order(self.num_classes)

    def listings(self) -> Listings:
        """Return what the official lists name.

        Raises:
            DataError: if a folder or list is missing.
        """
        root = self._year_folder()
        lists = root / "ImageSets" / "Segmentation"
        needed = [root / "JPEGImages", root / "SegmentationClass", lists / "val.txt"]
        if not self.augmented:
            needed.append(lists / "train.txt")
        refuse_absent(needed, data=self.data, layout=_LAYOUT, site=self.site)
        train = self._training(root, lists)
        return Listings(root, train, _listing(root, lists / "val.txt", "SegmentationClass", _VAL))

    def identity(self) -> Mapping[str, object]:
        """Return which training images and masks are meant."""
        return {**super().identity(), "augmented": self.augmented}

    def _training(self, root: Path, lists: Path) -> Listing:
        if not self.augmented:
            return _listing(root, lists / "train.txt", "SegmentationClass", _TRAIN)
        found = next((lists / name for name in _LISTS if (lists / name).is_file()), lists / _LISTS[0])
        folder = "SegmentationClassAug"
        refuse_absent([found, root / folder], data=self.data, layout=_AUGMENTED_LAYOUT, site=self.site)
        return _listing(root, found, folder, _AUGMENTED)

    def _year_folder(self) -> Path:
        folders = [self.root / "VOCdevkit" / "VOC2012", self.root / "VOC2012", self.root]
        return next((folder for folder in folders if (folder / "JPEGImages").is_dir()), folders[0])


def _listing(root: Path, source: Path, masks: str, published: int) -> Listing:
    # A line is a name, or the paths of the image and the mask, as /JPEGImages/2007_000032.jpg.
    names = [Path(below(cells[0].lstrip("/"), source)).stem for cells in read_lines(source, 1)]
    pairs = [Pair(name, root / "JPEGImages" / f"{name}.jpg", root / masks / f"{name}.png") for name in names]
    return Listing(source, pairs, published)

"""Cityscapes [0], class by class.

[0] Cordts, Omran, Ramos, Rehfeld, Enzweiler, Benenson, Franke, Roth, Schiele: The Cityscapes Dataset for Semantic
    Urban Scene Understanding. CVPR 2016, arXiv:1604.01685.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pvision.continual.masks import VOID
from pvision.datamodules.segmentation.label_map import LabelMap
from pvision.datamodules.segmentation.preprocessing import SegmentationPreprocessing
from pvision.datamodules.segmentation.published import Listing, Pair
from pvision.datamodules.segmentation.published_stream import Listings, PublishedSegmentation
from pvision.datamodules.streams._image_lists import refuse_absent

__all__ = ["CityscapesStream"]

_EVALUATED = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}  # values of labelIds, with the benchmark's 19 classes
_VALUES = 34
_LAYOUT = "ROOT/leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and ROOT/gtFine/{train,val}/CITY/*_gtFine_labelIds.png"
_IMAGE, _MASK = "_leftImg8bit", "_gtFine_labelIds"
_TRAIN, _VAL = 2_975, 500


class CityscapesStream(PublishedSegmentation):
    """Cityscapes: 19 classes in 3,475 finely annotated street scenes of 2048 x 1024 pixels; no background.

    Tasks are 14-1, 13-6, 13-1, 10-1 and offline. Values of masks that the benchmark does not evaluate are void. In the
    masks of an experience the label 0 stands for the classes that it does not show.

    Args:
        root: the folder that holds ``leftImg8bit`` and ``gtFine``.
        task: as `PublishedSegmentation`, like all that follow.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        ``CityscapesStream(root="data/cityscapes", task="14-1")``
    """

    data = "Cityscapes"
    site = "https://www.cityscapes-dataset.com/"
    class_names = tuple(_EVALUATED.values())
    has_background = False

    def __init__(
        self,
        *,
        root: str,
        task: str = "14-1",
        setting: Literal["overlapped", "disjoint", "partitioned", "sequential"] = "overlapped",
        class_order: Sequence[int] | None = None,
        class_order_seed: int | None = None,
        assignment_seed: int = 0,
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
            void_as_background=False,
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

    @property
    def label_map(self) -> LabelMap:
        """The benchmark's 19 classes out of the 34 values of ``labelIds``; all others are void."""
        labels = dict.fromkeys(range(_VALUES), VOID) | {value: label for label, value in enumerate(_EVALUATED, start=1)}
        return LabelMap(labels, num_classes=self.num_classes, background=False)

    def listings(self) -> Listings:
        """Return the images of all cities.

        Raises:
            DataError: if a folder is missing.
        """
        folders = [self.root / kind / split for kind in ("leftImg8bit", "gtFine") for split in ("train", "val")]
        refuse_absent(folders, data=self.data, layout=_LAYOUT, site=self.site)
        return Listings(self.root, _listing(self.root, "train", _TRAIN), _listing(self.root, "val", _VAL))


def _listing(root: Path, split: str, published: int) -> Listing:
    folder = root / "leftImg8bit" / split
    pairs = []
    for path in sorted(folder.glob(f"*/*{_IMAGE}.png")):
        name = path.stem.removesuffix(_IMAGE)
        pairs.append(Pair(name, path, root / "gtFine" / split / path.parent.name / f"{name}{_MASK}.png"))
    return Listing(folder, pairs, published)

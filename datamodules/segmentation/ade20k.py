"""The scene parsing benchmark on ADE20K [0], class by class.

[0] Zhou, Zhao, Puig, Xiao, Fidler, Barriuso, Torralba: Semantic Understanding of Scenes through the ADE20K Dataset.
    IJCV 2019, arXiv:1608.05442.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pvision.checks import one_of
from pvision.continual.masks import BACKGROUND, VOID
from pvision.datamodules.segmentation.ade20k_classes import ADE20K_CLASSES
from pvision.datamodules.segmentation.label_map import LabelMap
from pvision.datamodules.segmentation.preprocessing import SegmentationPreprocessing
from pvision.datamodules.segmentation.published import Listing, Pair
from pvision.datamodules.segmentation.published_stream import Listings, PublishedSegmentation
from pvision.datamodules.streams._image_lists import refuse_absent

__all__ = ["ADE20KStream"]

_LAYOUT = "ROOT/ADEChallengeData2016/{images,annotations}/{training,validation}"
_TRAIN, _VAL = 20_210, 2_000


class ADE20KStream(PublishedSegmentation):
    """ADE20K: 150 classes of things and surfaces in 22,210 photographs of scenes.

    The field's tasks are 100-50, 100-10, 100-5, 50-50, 50-20 and offline. A mask's value 0 means none of the 150
    classes, and published code disagrees about it; ``other`` decides, and figures of the two do not compare.

    Args:
        root: the folder ``ADEChallengeData2016`` or the one that holds it.
        task: as `PublishedSegmentation`, like all that are not listed.
        other: ``"background"`` trains and evaluates pixels of value 0 as the background, as BARM and SSUL do;
            ``"void"`` leaves them out of both, and the set has no background. MiB leaves them out of the evaluation.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        ``ADE20KStream(root="data", task="100-5", other="background")``
    """

    data = "ADE20K"
    site = "http://sceneparsing.csail.mit.edu/"
    class_names = ADE20K_CLASSES

    def __init__(
        self,
        *,
        root: str,
        task: str = "100-50",
        setting: Literal["overlapped", "disjoint", "partitioned", "sequential"] = "overlapped",
        other: Literal["background", "void"] = "background",
        class_order: Sequence[int] | None = None,
        class_order_seed: int | None = None,
        assignment_seed: int = 0,
        complete: bool = True,
        presence_folder: str | None = None,
        batch_size: int = 8,
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
        self.has_background = one_of("data.other", other, ("background", "void")) == "background"

    @property
    def label_map(self) -> LabelMap:
        """0 is the background or void, 1 to 150 are the classes."""
        zero = BACKGROUND if self.has_background else VOID
        labels = {label: label for label in range(1, self.num_classes + 1)}
        return LabelMap({BACKGROUND: zero} | labels, num_classes=self.num_classes, background=self.has_background)

    def listings(self) -> Listings:
        """Return the images of both folders.

        Raises:
            DataError: if a folder is missing.
        """
        inner = self.root / "ADEChallengeData2016"
        root = inner if inner.is_dir() or not (self.root / "images").is_dir() else self.root
        folders = [root / kind / split for kind in ("images", "annotations") for split in ("training", "validation")]
        refuse_absent(folders, data=self.data, layout=_LAYOUT, site=self.site)
        return Listings(root, _listing(root, "training", _TRAIN), _listing(root, "validation", _VAL))

    def identity(self) -> Mapping[str, object]:
        """Return what value 0 means."""
        return {**super().identity(), "other": "background" if self.has_background else "void"}


def _listing(root: Path, split: str, published: int) -> Listing:
    folder = root / "images" / split
    images = sorted(folder.glob("*.jpg"))
    masks = root / "annotations" / split
    return Listing(folder, [Pair(path.stem, path, masks / f"{path.stem}.png") for path in images], published)

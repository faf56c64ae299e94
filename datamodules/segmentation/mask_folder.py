"""A user's own images with masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pvision.checks import open_unit, positive_int
from pvision.continual.scenarios import SegmentationScenario
from pvision.datamodules.segmentation.folder_listing import FolderNames, list_pairs
from pvision.datamodules.segmentation.label_map import LabelMap
from pvision.datamodules.segmentation.preprocessing import SegmentationPreprocessing
from pvision.datamodules.segmentation.sources import FileSegmentation
from pvision.datamodules.segmentation.stream import SegmentationStream
from pvision.errors import DataError

__all__ = ["MaskFolderStream"]


class MaskFolderStream(SegmentationStream):
    """Your own images with masks, in one of four layouts.

    - ``ROOT/train/images/…`` and ``ROOT/train/masks/…``, and the same with ``test``.
    - ``ROOT/images/train/…`` and ``ROOT/masks/train/…``, and the same with ``test``.
    - ``ROOT/images/…`` and ``ROOT/masks/…``, with ``ROOT/train.txt`` and ``ROOT/test.txt``: one image per line.
    - ``ROOT/images/…`` and ``ROOT/masks/…`` only: a part of the images is drawn for the test. Images of one person, or
      of one recording, may then come on both sides.

    The mask of ``images/a/b.jpg`` is ``masks/a/b.png``: 8 bits, grey or with a palette, whose values are class numbers.

    Args:
        root: the folder.
        class_names: the names of the classes, without the background.
        scenario: divides the images into experiences.
        label_map: the label of each value in the masks: 0 background, 1 the first class, …, 255 neither trained nor
            evaluated. None for masks that number the classes in order, from 1 if there is a background and from 0 if
            not.
        background: whether there are pixels that belong to no class.
        images: what the folder of the images is called.
        masks: what the folder of the masks is called.
        mask_suffix: what the name of a mask has between the name of its image and ``.png``, as ``_mask``.
        train: what the folder, or the list, of the training images is called.
        test: what that of the test images is called.
        test_fraction: the part of the images that is drawn for the test, where nothing says which they are.
        split_seed: draws it; apart from ``seed``, so that runs with other seeds have the same test.
        presence_folder: where to keep which labels occur in which mask, so that masks are not all read again when the
            next run starts; None to read them each time.
        batch_size: as `SegmentationStream`, like all that follow.
        eval_batch_size: see there.
        num_workers: see there.
        val_fraction: see there.
        training_set: see there.
        evaluation: see there.
        preprocessing: see there.
        seed: see there.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        ``MaskFolderStream(root="yard", class_names=["cat", "dog"], scenario=SegmentationScenario(task="1-1"))``
    """

    def __init__(
        self,
        *,
        root: str,
        class_names: Sequence[str],
        scenario: SegmentationScenario,
        label_map: Mapping[int, int] | None = None,
        background: bool = True,
        images: str = "images",
        masks: str = "masks",
        mask_suffix: str = "",
        train: str = "train",
        test: str = "test",
        test_fraction: float = 0.2,
        split_seed: int = 0,
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
            scenario=scenario,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            val_fraction=val_fraction,
            training_set=training_set,
            evaluation=evaluation,
            preprocessing=preprocessing,
            seed=seed,
        )
        self.class_names, self.has_background = tuple(class_names), bool(background)
        count = len(self.class_names)
        self.label_map = (
            LabelMap.in_order(count, background=self.has_background)
            if label_map is None
            else LabelMap(label_map, num_classes=count, background=self.has_background)
        )
        self._root = Path(root).expanduser()
        self._names = FolderNames(images, masks, train, test, mask_suffix)
        self._test_fraction = open_unit("data.test_fraction", test_fraction)
        self._split_seed = positive_int("data.split_seed", split_seed, low=0) % 2**32
        self._presence_folder = None if presence_folder is None else Path(presence_folder).expanduser()

    def prepare_sources(self) -> None:
        """List the images and their masks.

        Raises:
            DataError: if the folder is in none of the layouts, or an image has no mask.
        """
        if not self._root.is_dir():
            raise DataError(f"data.root {self._root} is no folder. Give the one that holds the images and masks.")
        pairs = list_pairs(self._root, self._names, test_fraction=self._test_fraction, split_seed=self._split_seed)
        self.train_source, self.test_source = self._source("train", pairs.train), self._source("test", pairs.test)

    def identity(self) -> Mapping[str, object]:
        """Return what decides which labels the stream shows, and which images it tests."""
        return {
            "label_map": {str(value): label for value, label in sorted(self.label_map.labels.items())},
            "test_fraction": self._test_fraction,
            "split_seed": self._split_seed,
        }

    def _source(self, split: str, pairs: Sequence[tuple[Path, Path]]) -> FileSegmentation:
        kept = self._presence_folder
        return FileSegmentation(
            [image for image, _ in pairs],
            [mask for _, mask in pairs],
            root=self._root,
            label_map=self.label_map,
            num_classes=self.num_classes,
            presence_file=None if kept is None else kept / f"{type(self).__name__}-{split}.json",
        )

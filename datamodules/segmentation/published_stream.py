"""The base of streams over published segmentation sets."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from pvision.continual.scenarios import SegmentationScenario
from pvision.datamodules.segmentation.label_map import LabelMap
from pvision.datamodules.segmentation.preprocessing import CROP_513, SegmentationPreprocessing
from pvision.datamodules.segmentation.published import Listing, check_listings
from pvision.datamodules.segmentation.sources import FileSegmentation
from pvision.datamodules.segmentation.stream import SegmentationStream

__all__ = ["Listings", "PublishedSegmentation"]


class Listings(NamedTuple):
    """Both splits of a published set.

    Attributes:
        root: the folder below which all images lie.
        train: the training images.
        test: the official validation images, whose masks are public.
    """

    root: Path
    train: Listing
    test: Listing


class PublishedSegmentation(SegmentationStream):
    """A published set with its official splits; a subclass lists its files and says what the values of masks mean.

    The test is the official validation set, as in all published tables: the masks of the official tests are not
    public. Choose nothing by it; hold out training images with ``val_fraction``.

    Args:
        root: the folder of the data set.
        task: which classes come when: ``"15-1"`` begins with 15 and brings 1 in each later experience, ``"offline"``
            has all at once.
        setting: which images an experience has, and which labels it shows, see `SegmentationScenario`.
        class_order: the labels, from 1, in the order in which they come; None for ascending ones.
        class_order_seed: draws the order instead.
        assignment_seed: assigns images to classes, with setting ``"partitioned"``.
        void_as_background: train pixels of label 255 as background, as MiB does on PASCAL VOC.
        complete: whether both splits must have as many images as published. Figures of a part compare with nothing.
        presence_folder: where to keep which labels occur in which mask, so that masks are not all read again when the
            next run starts; None to read them each time.
        batch_size: as `SegmentationStream`, like all that follow.
        eval_batch_size: see there.
        num_workers: see there.
        val_fraction: see there.
        training_set: see there.
        evaluation: see there.
        preprocessing: see there; None for the field's, windows of 513 pixels.
        seed: see there.

    Raises:
        ConfigError: if an argument is out of range.
    """

    data: ClassVar[str]
    site: ClassVar[str]

    def __init__(
        self,
        *,
        root: str,
        task: str,
        setting: Literal["overlapped", "disjoint", "partitioned", "sequential"],
        class_order: Sequence[int] | None,
        class_order_seed: int | None,
        assignment_seed: int,
        void_as_background: bool,
        complete: bool,
        presence_folder: str | None,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        val_fraction: float,
        training_set: Literal["current", "seen"],
        evaluation: Literal["full", "crop"],
        preprocessing: SegmentationPreprocessing | None,
        seed: int | None,
    ) -> None:
        super().__init__(
            scenario=SegmentationScenario(
                setting=setting,
                task=task,
                class_order=class_order,
                class_order_seed=class_order_seed,
                void_as_background=void_as_background,
                seed=assignment_seed,
            ),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            val_fraction=val_fraction,
            training_set=training_set,
            evaluation=evaluation,
            preprocessing=preprocessing,
            seed=seed,
        )
        self.root = Path(root).expanduser()
        self.complete = bool(complete)
        self._presence_folder = None if presence_folder is None else Path(presence_folder).expanduser()

    @abstractmethod
    def listings(self) -> Listings:
        """Return the files of both splits.

        Raises:
            DataError: if the data is not in its official layout.
        """

    @property
    @abstractmethod
    def label_map(self) -> LabelMap:
        """What the values of masks mean."""

    def default_preprocessing(self) -> SegmentationPreprocessing:
        """Return the field's: windows of 513 pixels out of images scaled by 0.5 to 2, mirrored half of the time."""
        return CROP_513

    def prepare_sources(self) -> None:
        """List the files, and compare them with what was published.

        Raises:
            DataError: if the data is not in its official layout or not complete.
        """
        root, train, test = self.listings()
        check_listings(train, test, data=self.data, site=self.site, complete=self.complete)
        self.train_source, self.test_source = (
            self._source(root, listing, split) for listing, split in ((train, "train"), (test, "test"))
        )

    def identity(self) -> Mapping[str, object]:
        """Return whether the data is whole."""
        return {"complete": self.complete}

    def _source(self, root: Path, listing: Listing, split: str) -> FileSegmentation:
        kept = self._presence_folder
        return FileSegmentation(
            [pair.image for pair in listing.pairs],
            [pair.mask for pair in listing.pairs],
            root=root,
            label_map=self.label_map,
            num_classes=self.num_classes,
            presence_file=None if kept is None else kept / f"{type(self).__name__}-{split}.json",
        )

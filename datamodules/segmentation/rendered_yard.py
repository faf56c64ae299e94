"""RenderedYardStream: people, machines and things of ten classes, rendered, shipped with pvision."""

from typing import Literal

import numpy as np

from pvision.checks import positive_int
from pvision.continual.scenarios import SegmentationScenario
from pvision.datamodules.rendered_yard.labels import CLASS_NAMES
from pvision.datamodules.rendered_yard.storage import load_yard
from pvision.datamodules.segmentation.preprocessing import SegmentationPreprocessing
from pvision.datamodules.segmentation.sources import ArraySegmentation
from pvision.datamodules.segmentation.stream import SegmentationStream

__all__ = ["RenderedYardStream"]


class RenderedYardStream(SegmentationStream):
    """The shipped pictures of 64 x 64 pixels with the class of each pixel: ten classes and background, no void.

    The classes, from label 1: vehicle, wheel, table, quadruped, ball, drum, arm, trousers, shirt, skin. A stream for
    first steps, comparisons on a CPU and tests; it needs no download. docs/data_rendered_yard.md says how the pictures
    were made and what the split tests.

    Args:
        scenario: divides the pictures into experiences.
        root: folder of a set made by ``python -m pvision.datamodules.rendered_yard``; the shipped one if None.
        train_images: use only the first so many training pictures; all if None.
        test_images: use only the first so many test pictures; all if None.
        batch_size: as `SegmentationStream`, like all that follow.
        eval_batch_size: see there.
        num_workers: see there; pictures are in memory, so 0 is usually fastest.
        val_fraction: see there.
        training_set: see there.
        evaluation: see there.
        preprocessing: see there; None for mirrored pictures with values from -2 to 2.
        seed: see there.

    Raises:
        ConfigError: if an argument is out of range.
    """

    class_names = CLASS_NAMES

    def __init__(
        self,
        *,
        scenario: SegmentationScenario,
        root: str | None = None,
        train_images: int | None = None,
        test_images: int | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 50,
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
        self._root = root
        self._train_images = None if train_images is None else positive_int("data.train_images", train_images)
        self._test_images = None if test_images is None else positive_int("data.test_images", test_images)

    def default_preprocessing(self) -> SegmentationPreprocessing:
        """Return mirroring, and values from -2 to 2."""
        return SegmentationPreprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))

    def prepare_sources(self) -> None:
        """Load the pictures.

        Raises:
            ConfigError: if more pictures are wanted than the set has.
            DataError: if a file of the set is missing or damaged.
        """
        self.train_source = self._source("train", self._train_images)
        self.test_source = self._source("test", self._test_images)

    def _source(self, split: str, limit: int | None) -> ArraySegmentation:
        images, masks = load_yard(split, self._root, limit=limit)
        channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return ArraySegmentation(channels_first, masks, num_classes=len(CLASS_NAMES), prefix=split)

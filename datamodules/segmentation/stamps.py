"""Scenes of Tux Paint's photographic stamps, class by class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from tqdm import tqdm

from pvision.checks import open_unit, positive_int
from pvision.continual.scenarios import SegmentationScenario
from pvision.datamodules.segmentation.backgrounds import Background, divide_photographs, drawn_clouds, photographs
from pvision.datamodules.segmentation.preprocessing import SegmentationPreprocessing
from pvision.datamodules.segmentation.sources import ArraySegmentation
from pvision.datamodules.segmentation.stamp_files import (
    STAMP_CLASSES,
    Stamp,
    divide_stamps,
    find_stamps,
    read_stamp,
)
from pvision.datamodules.segmentation.stamp_scenes import SceneSettings, draw_scene
from pvision.datamodules.segmentation.stream import SegmentationStream
from pvision.errors import ConfigError

__all__ = ["StampsStream"]

_SPLITS = ("train", "test")


class StampsStream(SegmentationStream):
    """Photographs, or clouds of colour, with photographic cut-outs of 18 classes pasted on them.

    The cut-outs are those of Debian's package ``tuxpaint-stamps-default`` (GPL-2), which is read and never copied.
    Scenes are drawn when the stream is set up. No stamp and no photograph is both in training and in the test. What
    the photographs show themselves is background.

    Args:
        root: the stamps' folder.
        task: as `PublishedSegmentation`: 18 classes, so 10-1, 10-4, 6-3, offline, …
        setting: see there.
        backgrounds: a folder of your photographs; None to draw backgrounds.
        train_scenes: how many scenes to train on.
        test_scenes: how many to test on.
        side: of the square scenes, in pixels.
        objects: the fewest and the most in a scene.
        test_fraction: part of each class' stamps, and of the photographs, that is for the test; one file at least.
        scene_seed: draws the split and the scenes; apart from ``seed``, so that runs with other seeds share them.
        class_order: as `PublishedSegmentation`.
        class_order_seed: see there.
        assignment_seed: see there.
        batch_size: as `SegmentationStream`, like all that follow.
        eval_batch_size: see there.
        num_workers: see there.
        val_fraction: see there.
        training_set: see there.
        evaluation: see there.
        preprocessing: see there; None mirrors half of the training images and scales none.
        seed: see there.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        ``StampsStream(task="10-4", backgrounds="my_photographs")``
    """

    class_names = tuple(kind.name for kind in STAMP_CLASSES)

    def __init__(
        self,
        *,
        root: str = "/usr/share/tuxpaint/stamps",
        task: str = "10-1",
        setting: Literal["overlapped", "disjoint", "partitioned", "sequential"] = "overlapped",
        backgrounds: str | None = None,
        train_scenes: int = 2_000,
        test_scenes: int = 400,
        side: int = 96,
        objects: tuple[int, int] = (2, 4),
        test_fraction: float = 0.3,
        scene_seed: int = 0,
        class_order: Sequence[int] | None = None,
        class_order_seed: int | None = None,
        assignment_seed: int = 0,
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
            scenario=SegmentationScenario(
                setting=setting,
                task=task,
                class_order=class_order,
                class_order_seed=class_order_seed,
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
        self.backgrounds = None if backgrounds is None else Path(backgrounds).expanduser()
        self._counts = (
            positive_int("data.train_scenes", train_scenes),
            positive_int("data.test_scenes", test_scenes),
        )
        self._settings = SceneSettings(positive_int("data.side", side, low=8), _checked_objects(objects))
        self._test_fraction = open_unit("data.test_fraction", test_fraction)
        self._scene_seed = positive_int("data.scene_seed", scene_seed, low=0)

    def prepare_sources(self) -> None:
        """Divide stamps and photographs, and draw the scenes.

        Raises:
            DataError: if stamps or photographs are missing or damaged.
        """
        stamps = divide_stamps(find_stamps(self.root), fraction=self._test_fraction, seed=self._scene_seed)
        self.train_source, self.test_source = (
            self._drawn(split, mine, behind)
            for split, mine, behind in zip(_SPLITS, stamps, self._behind(), strict=True)
        )

    def identity(self) -> Mapping[str, object]:
        """Return what the scenes are drawn from."""
        return {
            "train_scenes": self._counts[0],
            "test_scenes": self._counts[1],
            "side": self._settings.side,
            "objects": list(self._settings.objects),
            "photographs": self.backgrounds is not None,
            "test_fraction": self._test_fraction,
            "scene_seed": self._scene_seed,
        }

    def _behind(self) -> tuple[Background, Background]:
        if self.backgrounds is None:
            return drawn_clouds, drawn_clouds
        train, test = divide_photographs(self.backgrounds, fraction=self._test_fraction, seed=self._scene_seed)
        return photographs(train), photographs(test)

    def _drawn(self, split: str, stamps: Sequence[Stamp], background: Background) -> ArraySegmentation:
        side, place = self._settings.side, _SPLITS.index(split)
        cut_outs = {
            label: [read_stamp(stamp.path, most=side) for stamp in stamps if stamp.label == label]
            for label in range(1, self.num_classes + 1)
        }
        count = self._counts[place]
        images, masks = np.empty((count, 3, side, side), np.uint8), np.empty((count, side, side), np.uint8)
        hidden = getattr(rank_zero_only, "rank", 0) != 0  # Lightning sets it when it knows the rank
        for position in tqdm(
            range(count), desc=f"Scenes ({split})", unit="scene", leave=False, delay=2, disable=hidden
        ):
            seed = (self._scene_seed, place, position)
            image, masks[position] = draw_scene(cut_outs, background, settings=self._settings, seed=seed)
            images[position] = image.transpose(2, 0, 1)
        return ArraySegmentation(images, masks, num_classes=self.num_classes, prefix=split)


def _checked_objects(objects: Sequence[int]) -> tuple[int, int]:
    fewest, most = (positive_int("data.objects", number) for number in objects) if len(objects) == 2 else (2, 1)
    if fewest > most:
        raise ConfigError(
            f"data.objects must be the fewest and the most objects of a scene, but {list(objects)} came. Write [2, 4], "
            "for example."
        )
    return fewest, most

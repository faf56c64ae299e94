"""A user's own images with annotations in COCO's format."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pvision.checks import open_unit, positive_int
from pvision.datamodules.detection.coco_json import read_coco
from pvision.datamodules.detection.file_datamodule import FileDetection
from pvision.datamodules.detection.listed import Listed, Splits, held_out, partner
from pvision.errors import ConfigError

__all__ = ["CocoFolder"]


class CocoFolder(FileDetection):
    """Your own images with annotations in COCO's format.

    A ``file_name`` is a path below ``images``; another suffix is found too. Crowds (``iscrowd``) are left out. Labels
    are the categories in the order of their ids.

    Args:
        images: the folder of the images.
        annotations: the JSON file, of all images or of those for training.
        val_annotations: the JSON file of the images for validation; None to draw them by ``seed``.
        test_annotations: the JSON file of the images for the test; None to draw them by ``split_seed``.
        rgb_images: the folder with the RGB images of the same scenes under the same names; None if there are none.
        modality: a word for what the images are.
        test_fraction: share of the images that is drawn for the test, where no others are given.
        split_seed: draws the test; apart from ``seed``, so that runs with other seeds have the same test.
        classes: as `FileDetection`, like all that follow.
        with_rgb: see there.
        val_fraction: see there.
        channels: see there.
        clip_boxes: see there.
        batch_size: see there.
        eval_batch_size: see there.
        num_workers: see there.
        label_fraction: see there.
        flip: see there.
        seed: see there.

    Raises:
        ConfigError: if an argument is out of range.
    """

    def __init__(
        self,
        *,
        images: str,
        annotations: str,
        val_annotations: str | None = None,
        test_annotations: str | None = None,
        rgb_images: str | None = None,
        modality: str = "lwir",
        test_fraction: float = 0.2,
        split_seed: int = 0,
        classes: Sequence[str] | None = None,
        with_rgb: bool = True,
        val_fraction: float = 0.2,
        channels: int | None = None,
        clip_boxes: bool = False,
        batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        label_fraction: float = 1.0,
        flip: bool = False,
        seed: int = 1,
    ) -> None:
        super().__init__(
            modality=modality,
            classes=classes,
            with_rgb=with_rgb,
            val_fraction=val_fraction,
            channels=channels,
            clip_boxes=clip_boxes,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            label_fraction=label_fraction,
            flip=flip,
            seed=seed,
        )
        self._images = Path(images).expanduser()
        self._rgb_images = None if rgb_images is None else Path(rgb_images).expanduser()
        if modality == "rgb" and rgb_images is None:
            self._rgb_images = self._images
        self._annotations, self._val, self._test = annotations, val_annotations, test_annotations
        self._test_fraction = open_unit("data.test_fraction", test_fraction)
        self._split_seed = positive_int("data.split_seed", split_seed, low=0)

    def list_images(self, dropped: Counter[str]) -> Splits:
        """Return the images of all annotation files.

        Raises:
            DataError: if a file is missing or not in COCO's format.
            ConfigError: if annotation files differ in their classes.
        """
        names, train = self._read(self._annotations, dropped)
        val = None if self._val is None else self._read(self._val, dropped, names)[1]
        if self._test is None:
            train, test = held_out(train, self._test_fraction, seed=self._split_seed, purpose="test")
        else:
            test = self._read(self._test, dropped, names)[1]
        return Splits(train, test, names, val=val)

    def _read(
        self, file: str, dropped: Counter[str], expected: Sequence[str] | None = None
    ) -> tuple[list[str], list[Listed]]:
        names, rows = read_coco(Path(file).expanduser(), files=self._files, dropped=dropped)
        if expected is not None and not set(names) <= set(expected):
            raise ConfigError(
                f"{file} has the categories {', '.join(names)}, but the training annotations {', '.join(expected)}. "
                "Give both the same names."
            )
        return names, rows

    def _files(self, name: str) -> tuple[Path, Path | None]:
        return partner(self._images, name), None if self._rgb_images is None else partner(self._rgb_images, name)

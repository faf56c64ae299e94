"""A user's own images with annotations as Pascal VOC's."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pvision.checks import open_unit, positive_int
from pvision.datamodules.detection.file_datamodule import FileDetection, read_names
from pvision.datamodules.detection.listed import Listed, Splits, held_out, partner, relative
from pvision.datamodules.detection.voc_xml import read_voc
from pvision.errors import DataError

__all__ = ["VocFolder"]


class VocFolder(FileDetection):
    """Your own images with one XML file for each, as Pascal VOC has them.

    Each XML file stands for the image of its name (``<filename>`` is not looked at); images without one are not used.
    An image without objects needs an XML file too, without ``<object>``. Labels are the names of the classes, sorted.

    Args:
        images: the folder of the images.
        annotations: the folder of the XML files.
        train_list: a text file with the names of the images for training and validation, without suffix, one in each
            line; None for all that are not in ``test_list``.
        test_list: the same for the test; None to draw them by ``split_seed``.
        rgb_images: the folder with the RGB images of the same scenes under the same names; None if there are none.
        one_based: whether the first pixel is 1 and ``xmax`` and ``ymax`` are inclusive, as VOC's own are; 1 is then
            taken off ``xmin`` and ``ymin``. Off for tools that count from 0.
        modality: a word for what the images are.
        test_fraction: share of the images that is drawn for the test, where there is no ``test_list``.
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
        train_list: str | None = None,
        test_list: str | None = None,
        rgb_images: str | None = None,
        one_based: bool = True,
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
        self._images, self._annotations = Path(images).expanduser(), Path(annotations).expanduser()
        self._rgb_images = None if rgb_images is None else Path(rgb_images).expanduser()
        if modality == "rgb" and rgb_images is None:
            self._rgb_images = self._images
        self._train_list, self._test_list, self._one_based = train_list, test_list, bool(one_based)
        self._test_fraction = open_unit("data.test_fraction", test_fraction)
        self._split_seed = positive_int("data.split_seed", split_seed, low=0)

    def list_images(self, dropped: Counter[str]) -> Splits:
        """Return the images of all XML files, or of the lists.

        Raises:
            DataError: if a file is missing or damaged.
        """
        tested = None if self._test_list is None else _unique(self._test_list)
        names = self._all() if self._train_list is None else _unique(self._train_list)
        if self._train_list is None:
            names = [name for name in names if name not in set(tested or ())]
        elif both := set(names) & set(tested or ()):
            raise DataError(
                f"{sorted(both)[0]!r} is in {self._train_list} and in {self._test_list}. Take it out of one."
            )
        train = [self._row(name) for name in names]
        if tested is None:
            return Splits(*held_out(train, self._test_fraction, seed=self._split_seed, purpose="test"))
        return Splits(train, [self._row(name) for name in tested])

    def _all(self) -> list[str]:
        names = [path.relative_to(self._annotations).with_suffix("") for path in self._annotations.rglob("*.xml")]
        if not names:
            raise DataError(f"{self._annotations} holds no XML files. Expected is one for each image, named after it.")
        return [name.as_posix() for name in names]

    def _row(self, name: str) -> Listed:
        rgb = None if self._rgb_images is None else partner(self._rgb_images, f"{name}.png")
        path = self._annotations / f"{name}.xml"
        return read_voc(path, one_based=self._one_based, name=name, image=partner(self._images, f"{name}.png"), rgb=rgb)


def _unique(path: str) -> list[str]:
    return [relative(name, path) for name in dict.fromkeys(read_names(Path(path).expanduser()))]

"""The base of detection data modules that read annotated image files."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from pvision.checks import open_unit, positive_int
from pvision.datamodules.detection.datamodule import DetectionDataModule
from pvision.datamodules.detection.listed import Listed, Splits, chosen_classes, held_out, only
from pvision.datamodules.detection.listed_images import ListedImages
from pvision.datamodules.detection.pairs import check_pairs
from pvision.errors import ConfigError, DataError

__all__ = ["FileDetection", "read_names", "refuse_absent_data"]


class FileDetection(DetectionDataModule):
    """Annotated image files: classes are chosen, validation is drawn, and everything is checked before the first step.

    A subclass lists images and their boxes in `list_images`; annotations are read there, once. Objects of classes that
    were not chosen are left out and counted; images that lose all of them stay. Identical boxes are kept and counted.

    Args:
        modality: which sensor to learn; ``"rgb"`` takes the RGB images alone.
        classes: which classes, in label order; None for those of the data set.
        with_rgb: whether the RGB images of the test scenes make a second test set.
        val_fraction: share of the training images that is drawn for validation, by ``seed``, where no others are given.
        channels: of an image that is no RGB image; 1 takes three equal channels for one, None leaves them as they are.
        clip_boxes: whether boxes are cut at the image's edges; else one that leaves the image is refused.
        batch_size: as `DetectionDataModule`, like all that follow.
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
        modality: str,
        classes: Sequence[str] | None,
        with_rgb: bool,
        val_fraction: float,
        channels: int | None,
        clip_boxes: bool,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        label_fraction: float,
        flip: bool,
        seed: int,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            label_fraction=label_fraction,
            flip=flip,
            seed=seed,
        )
        self.modality = modality
        if isinstance(classes, str):
            raise ConfigError(f"data.classes must be a list of names, but {classes!r} came. Write [{classes}].")
        self._chosen, self._with_rgb, self._clip_boxes = classes, bool(with_rgb), bool(clip_boxes)
        self._val_fraction = open_unit("data.val_fraction", val_fraction)
        self._channels = None if channels is None else positive_int("data.channels", channels)

    @abstractmethod
    def list_images(self, dropped: Counter[str]) -> Splits:
        """Return all images with all their objects, unopened.

        Args:
            dropped: counts what is left out, by reason.

        Raises:
            DataError: if the data is missing or not in the expected layout.
        """

    def prepare_sets(self) -> None:
        """List, choose, draw and check.

        Raises:
            DataError: naming the image, if a file, a box or a pair has a defect, or an image is listed twice.
            ConfigError: if a chosen class is unknown.
        """
        dropped: Counter[str] = Counter()
        splits = self.list_images(dropped)
        self._refuse_repeated([*splits.train, *(splits.val or ()), *splits.test])
        self.class_names = chosen_classes(splits, self._chosen)
        train, val, test = (self._ours(rows, dropped) for rows in (splits.train, splits.val or (), splits.test))
        if splits.val is None:
            train, val = held_out(train, self._val_fraction, seed=self.seed, purpose="validation")
        if paired := self._with_rgb and self.modality != "rgb" and any(row.rgb is not None for row in test):
            check_pairs(test, channels=self._channels)
        self.train_set, self.val_set = self._records(train, self.modality), self._records(val, self.modality)
        self.test_sets = {self.modality: self._records(test, self.modality)}
        if paired:
            self.test_sets["rgb"] = self._records(test, "rgb")
        for kind, rows in (("training", train), ("validation", val), ("test", test)):
            self._refuse_useless(kind, rows)
        self._say(dropped, [*train, *val, *test])

    def _ours(self, rows: Iterable[Listed], dropped: Counter[str]) -> list[Listed]:
        ordered = sorted(rows, key=lambda row: row.name)
        return only(ordered, lambda box: box.label in self.class_names, dropped)

    def _refuse_repeated(self, rows: Sequence[Listed]) -> None:
        path, count = Counter(row.path for row in rows).most_common(1)[0] if rows else (None, 0)
        if count > 1:
            raise DataError(
                f"{type(self).__name__}: {path} is listed {count} times, in one list or in those for training and "
                "test. Each image counts once, and only where it was not learned from: mend the lists."
            )

    def _refuse_useless(self, kind: str, rows: Sequence[Listed]) -> None:
        if not any(row.boxes for row in rows):
            raise DataError(
                f"{type(self).__name__}: none of the {len(rows)} images for {kind} has an object of the classes "
                f"{', '.join(self.class_names)}, so that nothing could be measured. Look at data.classes and the "
                "annotations; with a few images only, at data.val_fraction and the seeds."
            )

    def _records(self, rows: Sequence[Listed], modality: str) -> ListedImages:
        if modality != "rgb":
            return ListedImages(rows, modality, self.class_names, channels=self._channels, clip_boxes=self._clip_boxes)
        seen = [replace(row, path=row.rgb) for row in rows if row.rgb is not None]
        if len(seen) < len(rows):
            raise DataError(f"{type(self).__name__} lists no RGB images. Give their folder, or another data.modality.")
        return ListedImages(seen, "rgb", self.class_names, channels=3, clip_boxes=self._clip_boxes)

    def _say(self, dropped: Counter[str], rows: Sequence[Listed]) -> None:
        twice = sum(len(row.boxes) - len(set(row.boxes)) for row in rows)
        notes = [f"{count} objects left out: {reason}" for reason, count in sorted(dropped.items())]
        notes += [f"{twice} objects are annotated twice, with the same box and class, and kept"] if twice else []
        if notes:
            rank_zero_info(f"{type(self).__name__}: {'; '.join(notes)}.")


def refuse_absent_data(paths: Iterable[Path], *, data: str, layout: str, site: str) -> None:
    """Raise `DataError` if a file or folder of a published data set is not there.

    Args:
        paths: what must be there.
        data: its name.
        layout: what is expected, in words.
        site: where its authors publish it.
    """
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise DataError(
            f"{data}: there is no {' and no '.join(missing)}. Expected is {layout}. Get the data at {site} under its "
            "authors' licence, which is not pvision's, and unpack it there; pvision downloads no data of people."
        )


def read_names(path: Path) -> list[str]:
    """Return the first word of each line of a list that is not empty.

    Raises:
        DataError: if it cannot be read, or names nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list {path} cannot be read ({error}). Expected is one image in each line.") from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise DataError(f"The list {path} is empty. Expected is one image in each line.")
    return names

"""RenderedModalities: people, quadrupeds and vehicles in colour, simulated long-wave infrared and simulated depth."""

from pvision.checks import one_of, positive_int
from pvision.datamodules.detection.datamodule import DetectionDataModule
from pvision.datamodules.rendered.objects import CLASS_NAMES
from pvision.datamodules.rendered.records import SceneRecords
from pvision.datamodules.rendered.sensors import MODALITIES
from pvision.datamodules.rendered.storage import load_scenes, read_manifest
from pvision.errors import ConfigError

__all__ = ["RenderedModalities"]


class RenderedModalities(DetectionDataModule):
    """Rendered scenes of people, quadrupeds and vehicles with exact boxes, as three sensors see them from one place.

    The shipped set has 1,000 training, 200 validation and 400 test scenes of 96 x 128 pixels. ``"rgb"`` is a colour
    camera (8 bits), ``"lwir"`` a *simulated* long-wave infrared camera (counts of 0.01 K), ``"depth"`` a *simulated*
    time-of-flight camera (distance in mm, where 0 is no reading, and amplitude). Of the scenes 15 % are too dark
    for the colour camera. Test scenes show the objects from other sides and people at other moments:
    docs/data_rendered.md says exactly what the split tests.

    Args:
        modality: whose images are for training and validation: ``"rgb"``, ``"lwir"`` or ``"depth"``.
        rgb: whether the test is on the RGB images of the same scenes too.
        root: folder of a set made by ``python -m pvision.datamodules.rendered``; the shipped one if None.
        train_split: ``"train"``, or ``"detector"``, the scenes that a detector to adapt is first trained on; they are
            not shipped.
        train_images: use only the first so many training scenes; all if None.
        eval_images: use only the first so many scenes for validation and so many for test; all if None.
        batch_size: images in a batch of training, of all processes together.
        eval_batch_size: images that a process evaluates at a time.
        num_workers: loader processes; pictures are kept in memory once they are simulated, so 0 is usually fastest.
        label_fraction: which share of the training images is used, for budgets of annotation.
        flip: whether half of the training images, other ones in each epoch, are mirrored with their boxes.
        seed: draws batches, flips and the share.

    Raises:
        ConfigError: if an argument is outside its range.
    """

    class_names = CLASS_NAMES

    def __init__(
        self,
        *,
        modality: str = "lwir",
        rgb: bool = True,
        root: str | None = None,
        train_split: str = "train",
        train_images: int | None = None,
        eval_images: int | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        label_fraction: float = 1.0,
        flip: bool = False,
        seed: int = 1,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            label_fraction=label_fraction,
            flip=flip,
            seed=seed,
        )
        self.modality = one_of("data.modality", modality, MODALITIES)
        self.rgb = _switch("data.rgb", rgb)
        self.root = root
        self.train_split = one_of("data.train_split", train_split, ("train", "detector"))
        self.train_images = _optional("data.train_images", train_images)
        self.eval_images = _optional("data.eval_images", eval_images)

    def prepare_sets(self) -> None:
        """Load the scenes.

        Raises:
            ConfigError: if more scenes are wanted than the set has.
            DataError: if a file of the set is missing or damaged.
        """
        self.train_set = self._records("data.train_images", self.train_split, self.train_images)
        self.val_set = self._records("data.eval_images", "val", self.eval_images)
        test = self._records("data.eval_images", "test", self.eval_images)
        self.test_sets = {self.modality: test}
        if self.rgb and self.modality != "rgb":
            self.test_sets["rgb"] = test.seen_by("rgb")

    def _records(self, name: str, split: str, count: int | None) -> SceneRecords:
        available = read_manifest(self.root).scenes.get(split, 0)
        if not available:
            raise ConfigError(
                f"The {split} split is wanted, but the set has no such scenes. "
                f"Make some with: python -m pvision.datamodules.rendered --out FOLDER --{split} 4000"
            )
        if count is not None and count > available:
            raise ConfigError(
                f"{name} is {count}, but the {split} split has {available} scenes. Lower it, or set it to null."
            )
        return SceneRecords(split, load_scenes(split, self.root, limit=count), self.modality)


def _switch(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, but {value!r} came.")
    return value


def _optional(name: str, value: int | None) -> int | None:
    return None if value is None else positive_int(name, value)

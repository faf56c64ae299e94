"""The base of all detection data modules: which image comes when, and who scores it."""

import hashlib
import re
from abc import abstractmethod

import lightning.pytorch as pl
import numpy as np
from torch.utils.data import DataLoader

from pvision.checks import positive_int, unit_rate
from pvision.datamodules.batches import EvaluationBatches, Share
from pvision.datamodules.detection.records import DetectionRecords
from pvision.datamodules.detection.training_images import TrainingImages, kept_share
from pvision.datamodules.streams.loading import ExperienceBatches, StreamLoader, progress_of
from pvision.detection.records import DetectionBatch
from pvision.errors import ConfigError, DataError

__all__ = ["DetectionDataModule"]


class DetectionDataModule(pl.LightningDataModule):
    """Images of one modality with boxes, and, for the test, the RGB images of the same scenes where there are some.

    A subclass sets `class_names` and `modality` and fills ``train_set``, ``val_set`` and ``test_sets`` in
    `prepare_sets`. What it downloads or renders belongs into Lightning's ``prepare_data``.

    Which image comes when, and whether it is mirrored, is a function of ``seed`` and the epoch: processes, workers and
    interruptions change nothing. Processes share every batch of training; where the last one cannot be divided, it is
    filled up. Each image of validation and test is scored once, on one process, the last incomplete batch included.

    Args:
        batch_size: images in a batch of training, of all processes together.
        eval_batch_size: images that a process evaluates at a time.
        num_workers: loader processes; 0 loads in the main process.
        label_fraction: which share of the training images is used, for budgets of annotation. It is drawn by
            ``seed``; a smaller share is part of every larger one, and none is empty.
        flip: whether half of the training images, other ones in each epoch, are mirrored with their boxes.
        seed: draws batches, flips, the share, and whatever split a subclass draws.

    Attributes:
        class_names: the names of the classes, in label order.
        modality: which sensor the images for training and validation come from.
        train_set: the training images, all of them, whatever ``label_fraction`` says.
        val_set: the images for validation.
        test_sets: the test images by modality: that of the training first, ``"rgb"`` after it where there are pairs.

    Raises:
        ConfigError: if an argument is out of range.
    """

    class_names: tuple[str, ...] = ()
    modality: str = ""
    train_set: DetectionRecords
    val_set: DetectionRecords
    test_sets: dict[str, DetectionRecords]

    def __init__(
        self,
        *,
        batch_size: int = 16,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        label_fraction: float = 1.0,
        flip: bool = False,
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.batch_size = positive_int("data.batch_size", batch_size)
        self.eval_batch_size = positive_int("data.eval_batch_size", eval_batch_size)
        self.num_workers = positive_int("data.num_workers", num_workers, low=0)
        self.label_fraction = unit_rate("data.label_fraction", label_fraction)
        self.flip = bool(flip)
        self.seed = positive_int("data.seed", seed, low=0)
        self._ready = self._agreed = False

    @abstractmethod
    def prepare_sets(self) -> None:
        """Fill ``train_set``, ``val_set`` and ``test_sets``; called once on each process, before the first loader."""

    @property
    def num_classes(self) -> int:
        """How many classes the labels have."""
        return len(self.class_names)

    @property
    def test_modalities(self) -> tuple[str, ...]:
        """The modality of each loader of `test_dataloader`, in their order."""
        self._prepare()
        return tuple(self.test_sets)

    @property
    def training_positions(self) -> list[int]:
        """The positions in ``train_set`` that are trained on, in ascending order."""
        self._prepare()
        return kept_share(self.train_set.names, self.label_fraction, seed=self.seed)

    def setup(self, stage: str | None = None) -> None:
        """Load the data, once, whatever the stage.

        Raises:
            DataError: if the data is missing, damaged or empty, or processes do not find the same.
        """
        self._prepare()
        # Whoever set up one process before there was a Trainer did not take part in the agreement yet.
        if self.trainer is not None and self.trainer.world_size > 1 and not self._agreed:
            self._agreed = True
            self._refuse_disagreement(self.trainer)

    def train_dataloader(self) -> StreamLoader:
        """Return shuffled training images; a resumed run goes on in the middle of the epoch."""
        positions = np.array(self.training_positions, dtype=np.int64)
        batches = ExperienceBatches(positions, self.batch_size, self._share(), seed=self.seed, experience=0)
        images, trainer = TrainingImages(self.train_set, flip=self.flip, seed=self.seed), self.trainer
        progress = None if trainer is None else lambda: progress_of(trainer)
        return StreamLoader(images, batches, num_workers=self.num_workers, progress=progress)

    def val_dataloader(self) -> StreamLoader:
        """Return the validation images, each on one process."""
        self._prepare()
        return self._evaluation(self.val_set)

    def test_dataloader(self) -> list[StreamLoader]:
        """Return one loader for each modality of `test_modalities`; each image comes on one process."""
        self._prepare()
        return [self._evaluation(records) for records in self.test_sets.values()]

    def predict_dataloader(self) -> DataLoader[DetectionBatch]:
        """Return the test images of the modality, each on one process."""
        self._prepare()
        # A plain one: to predict, Lightning makes every loader anew from the arguments that it knows of.
        loader = self._evaluation(self.test_sets[self.modality])
        return DataLoader(loader.dataset, sampler=loader.sampler, batch_size=None, num_workers=self.num_workers)

    def _prepare(self) -> None:
        if self._ready:
            return
        self.prepare_sets()
        self._check_names()
        sets = {"training": self.train_set, "validation": self.val_set}
        sets |= {f"{modality} test": records for modality, records in self.test_sets.items()}
        for kind, records in sets.items():
            if not len(records):
                raise DataError(f"{type(self).__name__} found no {kind} images. Look at its paths and split settings.")
        self._ready = True

    def _check_names(self) -> None:
        names = self.class_names
        if not names or len(set(names)) < len(names) or not all(names):
            raise DataError(f"{type(self).__name__} needs class names, each once and none empty, but {names} came.")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.modality):
            raise ConfigError(
                f"data.modality must be a word of lower-case letters, as rgb, lwir or depth, but {self.modality!r} "
                "came."
            )
        expected = [self.modality] if self.modality == "rgb" else [self.modality, "rgb"]
        if list(self.test_sets) not in (expected, expected[:1]):
            raise DataError(
                f"{type(self).__name__}.test_sets must hold {expected[0]!r}, then 'rgb' where there are pairs, but "
                f"it holds {list(self.test_sets)}."
            )

    def _evaluation(self, records: DetectionRecords) -> StreamLoader:
        batches = EvaluationBatches(records, self.eval_batch_size, self._share())
        return StreamLoader(records, batches, num_workers=self.num_workers)

    def _share(self) -> Share:
        return Share() if self.trainer is None else Share(self.trainer.global_rank, self.trainer.world_size)

    def _refuse_disagreement(self, trainer: pl.Trainer) -> None:
        everything: list[object] = [self.class_names, *(list(r.names) for r in (self.train_set, self.val_set))]
        everything += [(modality, list(records.names)) for modality, records in self.test_sets.items()]
        mine = hashlib.sha256(repr(everything).encode()).hexdigest()
        if not trainer.strategy.reduce_boolean_decision(trainer.strategy.broadcast(mine) == mine, all=True):
            raise DataError(
                f"The {trainer.world_size} processes of this run found different images, here {len(self.train_set)} "
                "for training. Give every machine the same files and settings."
            )

"""The base of all streams of images with label masks, learned class by class."""

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader

from pvision.checks import one_of, positive_int
from pvision.continual.experience import Experience, Positions, seen_classes
from pvision.continual.manifest import StreamManifest
from pvision.continual.masks import SegmentationBatch
from pvision.continual.scenarios import SegmentationScenario, visible_table
from pvision.datamodules.batches import EvaluationBatches, Share
from pvision.datamodules.segmentation.division import divide_masks
from pvision.datamodules.segmentation.preprocessing import SegmentationPreprocessing
from pvision.datamodules.segmentation.records import EvaluationMasks, TrainingMasks
from pvision.datamodules.segmentation.sources import SegmentationSource
from pvision.datamodules.streams._stream_checks import checked_fraction, refuse_another_run, refuse_disagreement
from pvision.datamodules.streams.division import Division
from pvision.datamodules.streams.loading import ExperienceBatches, StreamLoader, progress_of
from pvision.errors import ConfigError

__all__ = ["SegmentationStream"]


class SegmentationStream(pl.LightningDataModule):
    """A stream of experiences made of images with label masks.

    A subclass fills ``class_names``, ``train_source`` and ``test_source`` in `prepare_sources`, and says whether there
    is a background. Labels are 0 for the background, 1, 2, … for the classes in the order of ``class_names``, and 255
    for pixels that are neither trained nor evaluated. Where there is no background, 0 stands in training for the
    classes that an experience does not show, and never comes in evaluation.

    Masks of training and validation show the labels that the scenario makes visible, those of the test all of them:
    whoever evaluates leaves out the classes that were not learned yet. No image is kept from one experience to the
    next.

    One experience is the `current` one; the loaders are its loaders. Which image comes when, and how it is augmented,
    is a function of ``seed``, the experience and the epoch: processes, workers and interruptions change nothing.
    Processes share every batch of training and the images of evaluation, none of which is seen twice.

    Args:
        scenario: divides the data set into experiences.
        batch_size: images in a batch of training, of all processes together.
        eval_batch_size: images that a process evaluates at a time; images of one size are needed for more than 1.
        num_workers: loader processes; 0 loads in the main process.
        val_fraction: part of each experience's training records that is held out for validation. A record that is held
            out is trained in no experience.
        training_set: ``"current"`` trains on the records of the current experience; ``"seen"`` on those of all
            experiences so far, with all labels so far, which is joint training.
        evaluation: ``"full"`` evaluates whole images at their own size, ``"crop"`` the square in their middle, see
            ``preprocessing.eval_crop``. The two give other numbers and cannot be compared.
        preprocessing: scale, window, mirror and normalisation; None for what fits the data set.
        seed: draws validation records, batches and augmentation; None for that of ``seed_everything``, 0 without one.

    Attributes:
        class_names: the names of the classes 1, 2, …
        has_background: whether masks hold the label 0.
        protocol: the name of the field's protocol that the stream follows; empty if none.
        online: False: an experience may have several epochs.
        current: the index, in `experiences`, of the experience trained now.

    Raises:
        ConfigError: if an argument is out of range, or two contradict each other.
    """

    class_names: Sequence[str] = ()
    has_background: bool = True
    protocol: str = ""
    online: bool = False
    train_source: SegmentationSource
    test_source: SegmentationSource

    def __init__(
        self,
        *,
        scenario: SegmentationScenario,
        batch_size: int = 16,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        val_fraction: float = 0.0,
        training_set: Literal["current", "seen"] = "current",
        evaluation: Literal["full", "crop"] = "full",
        preprocessing: SegmentationPreprocessing | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.scenario = scenario
        self.batch_size = positive_int("data.batch_size", batch_size)
        self.eval_batch_size = positive_int("data.eval_batch_size", eval_batch_size)
        self.num_workers = positive_int("data.num_workers", num_workers, low=0)
        self.val_fraction = checked_fraction("data.val_fraction", val_fraction)
        self.training_set = one_of("data.training_set", training_set, ("current", "seen"))
        self.preprocessing = self.default_preprocessing() if preprocessing is None else preprocessing
        self.evaluation: Literal["full", "crop"] = _checked_evaluation(evaluation, self.preprocessing)
        self._seed = None if seed is None else positive_int("data.seed", seed, low=0)
        self.current = 0
        self._division: Division | None = None
        self._manifest: StreamManifest | None = None
        self._agreed = False

    @abstractmethod
    def prepare_sources(self) -> None:
        """Fill ``class_names``, ``train_source`` and ``test_source``; called once on each process."""

    def default_preprocessing(self) -> SegmentationPreprocessing:
        """Return what happens to images if the user says nothing: mirrored, and normalised as for ImageNet."""
        return SegmentationPreprocessing()

    def identity(self) -> Mapping[str, object]:
        """Return further settings that decide which images and labels the stream shows; plain values, no paths."""
        return {}

    @property
    def num_classes(self) -> int:
        """How many classes there are, without the background."""
        return len(self.class_names)

    @property
    def names(self) -> Sequence[str]:
        """What the training records are called, by position."""
        self._divided()
        return self.train_source.names

    @property
    def seed(self) -> int:
        """What validation records, batches and augmentation are drawn from."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0")) if self._seed is None else self._seed

    @property
    def experiences(self) -> list[Experience]:
        """All experiences in order; their ``classes`` are labels from 1."""
        return self._divided().experiences

    @property
    def evaluated(self) -> list[int]:
        """The experiences whose classes the evaluation counts: those learned so far."""
        return list(range(min(self.current + 1, len(self.experiences))))

    def setup(self, stage: str | None = None) -> None:
        """Load the data and divide it, once, whatever the stage.

        Raises:
            ConfigError: if the scenario does not fit the data.
            DataError: if the data is missing or damaged, or processes do not find the same.
        """
        self._divided()
        # Whoever set up one process before there was a Trainer did not take part in the agreement yet.
        if self.trainer is not None and self.trainer.world_size > 1 and not self._agreed:
            self._agreed = True
            refuse_disagreement(self.trainer, self.manifest())

    def begin(self, index: int) -> None:
        """Make an experience the current one.

        Raises:
            ConfigError: if the stream has no such experience.
        """
        if not 0 <= index < len(self.experiences):
            raise ConfigError(
                f"The stream has the experiences 0 to {len(self.experiences) - 1}, but {index} is asked for."
            )
        self.current = index

    def consolidate(self, features: Any = None) -> None:
        """Keep nothing of the current experience, now that it is learned."""

    def train_dataloader(self) -> StreamLoader:
        """Return augmented batches of the current training set, with the labels that are visible in it."""
        batches = ExperienceBatches(
            self._trained("train"), self.batch_size, self._share(), seed=self.seed, experience=self.current
        )
        records = TrainingMasks(
            self.train_source, self.preprocessing, self._table(), seed=self.seed, experience=self.current
        )
        trainer = self.trainer
        progress = None if trainer is None else lambda: progress_of(trainer)
        return StreamLoader(records, batches, num_workers=self.num_workers, progress=progress)

    def val_dataloader(self) -> StreamLoader | list[Any]:
        """Return the held-out records of the current training set, with visible labels; an empty list if none."""
        held = self._trained("val")
        return self._evaluation(self.train_source, held, self._table(training=False)) if len(held) else []

    def test_dataloader(self) -> StreamLoader:
        """Return the whole test set with all labels."""
        return self._evaluation(self.test_source, np.arange(len(self.test_source)), None)

    def predict_dataloader(self) -> DataLoader[SegmentationBatch]:
        """Return the whole test set."""
        # A plain one: to predict, Lightning makes every loader anew from the arguments that it knows of.
        loader = self.test_dataloader()
        return DataLoader(loader.dataset, sampler=loader.sampler, batch_size=None)

    def in_order_loader(self, positions: Sequence[int] | Positions) -> StreamLoader:
        """Return training records as evaluation sees them, in the order given, all of them on every process.

        Their masks show what is visible in training now.

        Args:
            positions: of the training records.
        """
        chosen = np.asarray(positions, dtype=np.int64)
        records = self._plain(self.train_source, chosen, self._table())
        size = self.eval_batch_size
        batches = [list(range(start, min(start + size, len(chosen)))) for start in range(0, len(chosen), size)]
        return StreamLoader(records, batches, num_workers=self.num_workers)

    def manifest(self) -> StreamManifest:
        """Return what exactly the stream consists of."""
        division = self._divided()
        if self._manifest is None:
            self._manifest = StreamManifest(
                data=type(self).__name__,
                protocol=self.protocol,
                scenario={"class": type(self.scenario).__name__, **self.scenario.settings()},
                class_names=tuple(self.class_names),
                class_order=seen_classes(division.experiences),
                seed=self.seed,
                val_fraction=self.val_fraction,
                settings={"has_background": self.has_background, "evaluation": self._evaluated_as(), **self.identity()},
                experiences=division.entries(self.train_source.names, self.test_source.names),
            )
        return self._manifest

    def training_settings(self) -> dict[str, Any]:
        """Return what decides, beside the split, which batches training sees; plain values."""
        return {
            "batch_size": self.batch_size,
            "training_set": self.training_set,
            # Of anything but a dataclass the text would hold its address.
            "preprocessing": repr(self.preprocessing) if is_dataclass(self.preprocessing) else None,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream stands, and which stream it is."""
        return {"current": self.current, "manifest": self.manifest().as_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            DataError: if it was taken from another stream.
        """
        refuse_another_run(state_dict, self.manifest(), None)
        self.current = int(state_dict["current"])

    def _divided(self) -> Division:
        if self._division is None:
            self._seed = self.seed  # from now on it stays
            self.prepare_sources()
            self._division = divide_masks(
                self.train_source,
                self.test_source,
                self.class_names,
                scenario=self.scenario,
                has_background=self.has_background,
                val_fraction=self.val_fraction,
                seed=self.seed,
            )
        return self._division

    def _trained(self, part: Literal["train", "val"]) -> Positions:
        return self._divided().records(self.current, part, seen=self.training_set == "seen")

    def _table(self, *, training: bool = True) -> npt.NDArray[np.uint8]:
        """Return what each label becomes in the masks of the current experience."""
        shown = self.scenario.visible_labels(self.current, self.num_classes, seen=self.training_set == "seen")
        return visible_table(shown, void_as_background=training and self.scenario.void_as_background)

    def _evaluation(
        self, source: SegmentationSource, positions: Positions, table: npt.NDArray[np.uint8] | None
    ) -> StreamLoader:
        records = self._plain(source, positions, table)
        batches = EvaluationBatches(records, self.eval_batch_size, self._share())
        return StreamLoader(records, batches, num_workers=self.num_workers)

    def _plain(
        self, source: SegmentationSource, positions: Positions, table: npt.NDArray[np.uint8] | None
    ) -> EvaluationMasks:
        return EvaluationMasks(source, self.preprocessing, positions, table=table, evaluation=self.evaluation)

    def _evaluated_as(self) -> str:
        size = getattr(self.preprocessing, "eval_crop", None)
        return "full" if self.evaluation == "full" else f"crop {size}"

    def _share(self) -> Share:
        return Share() if self.trainer is None else Share(self.trainer.global_rank, self.trainer.world_size)


def _checked_evaluation(
    evaluation: Literal["full", "crop"], preprocessing: SegmentationPreprocessing
) -> Literal["full", "crop"]:
    one_of("data.evaluation", evaluation, ("full", "crop"))
    if evaluation == "crop" and getattr(preprocessing, "eval_crop", 0) is None:
        raise ConfigError(
            "data.evaluation 'crop' needs data.preprocessing.eval_crop, the side of the square in pixels. Set it, or "
            "evaluate 'full' images."
        )
    return evaluation

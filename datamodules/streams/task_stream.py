"""The base of all streams: a labelled image set that is learned, and forgotten, experience by experience."""

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
from torch.utils.data import DataLoader

from pvision.checks import one_of, positive_int
from pvision.continual.experience import Experience, ImageBatch, Positions, seen_classes
from pvision.continual.manifest import StreamManifest
from pvision.continual.replay import ReplayMemory
from pvision.continual.replay.memory import Features
from pvision.continual.scenarios import ForgetRequest, Scenario
from pvision.datamodules.batches import EvaluationBatches, Share
from pvision.datamodules.streams._stream_checks import (
    checked_fraction,
    checked_replay,
    refuse_another_run,
    refuse_disagreement,
)
from pvision.datamodules.streams.division import Division, divide
from pvision.datamodules.streams.loading import ExperienceBatches, StreamLoader, progress_of
from pvision.datamodules.streams.preprocessing import Preprocessing
from pvision.datamodules.streams.records import PlainRecords, TrainingRecords
from pvision.datamodules.streams.sources import ImageSource
from pvision.errors import ConfigError

__all__ = ["TaskStream"]


class TaskStream(pl.LightningDataModule):
    """A stream of experiences made of a labelled image set.

    A subclass fills ``class_names``, ``train_source`` and ``test_source`` in `prepare_sources`. What it downloads
    belongs into Lightning's ``prepare_data``.

    One experience is the `current` one; the loaders are its loaders. Which image comes when, and how it is augmented,
    is a function of ``seed``, the experience and the epoch: processes, workers and interruptions change nothing.
    Processes share every batch of training and the images of evaluation, none of which is seen twice.

    Args:
        scenario: divides the data set into experiences.
        batch_size: images in a batch of training, of all processes together, without the replayed ones.
        eval_batch_size: images that a process evaluates at a time.
        num_workers: loader processes; 0 loads in the main process.
        val_fraction: part of each class' training records that is held out of training and replay, for validation.
        training_set: ``"current"`` trains on the records of the current experience; ``"seen"`` on those of all
            experiences so far, which is joint training.
        evaluate: test after each experience on those ``"seen"`` so far or on ``"all"``; None for what suits the
            scenario.
        online: whether every record is shown once: a run of more than one epoch per experience is refused.
        replay: memory of earlier records that are trained again; None for none.
        replay_batch_size: replayed images in a batch, of all processes together, beside ``batch_size``; None for as
            many as ``batch_size``.
        forget: requests to forget, which become events of the stream.
        preprocessing: crop, augmentation and normalisation; None for what fits the data set.
        seed: draws validation records, batches and augmentation; None for that of ``seed_everything``, 0 without one.

    Attributes:
        class_names: the names of the classes, in label order.
        protocol: the name of the field's protocol that the stream follows; empty if none.
        current: the index, in `experiences`, of the experience trained now.

    Raises:
        ConfigError: if an argument is out of range, or two contradict each other.
    """

    class_names: Sequence[str] = ()
    protocol: str = ""
    train_source: ImageSource
    test_source: ImageSource

    def __init__(
        self,
        *,
        scenario: Scenario,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        val_fraction: float = 0.0,
        training_set: Literal["current", "seen"] = "current",
        evaluate: Literal["seen", "all"] | None = None,
        online: bool = False,
        replay: ReplayMemory | None = None,
        replay_batch_size: int | None = None,
        forget: Sequence[ForgetRequest] = (),
        preprocessing: Preprocessing | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.scenario = scenario
        self.batch_size = positive_int("data.batch_size", batch_size)
        self.eval_batch_size = positive_int("data.eval_batch_size", eval_batch_size)
        self.num_workers = positive_int("data.num_workers", num_workers, low=0)
        self.val_fraction = checked_fraction("data.val_fraction", val_fraction)
        self.training_set = one_of("data.training_set", training_set, ("current", "seen"))
        self.evaluate = one_of("data.evaluate", scenario.evaluates if evaluate is None else evaluate, ("seen", "all"))
        self.online = bool(online)
        self.replay = replay
        self.replay_batch_size = checked_replay(replay, replay_batch_size, self.batch_size, self.training_set)
        self.forget = list(forget)
        self.preprocessing = self.default_preprocessing() if preprocessing is None else preprocessing
        self._seed = None if seed is None else positive_int("data.seed", seed, low=0)
        self.current = 0
        self._division: Division | None = None
        self._manifest: StreamManifest | None = None
        self._agreed = False

    @abstractmethod
    def prepare_sources(self) -> None:
        """Fill ``class_names``, ``train_source`` and ``test_source``; called once on each process."""

    def default_preprocessing(self) -> Preprocessing:
        """Return what happens to images if the user says nothing: values in [0, 1]."""
        return Preprocessing()

    def identity(self) -> Mapping[str, object]:
        """Return further settings that decide which images the stream shows; plain values, no paths."""
        return {}

    @property
    def num_classes(self) -> int:
        """How many classes the labels have."""
        return len(self.class_names)

    @property
    def seed(self) -> int:
        """What validation records, batches and augmentation are drawn from."""
        return int(os.environ.get("PL_GLOBAL_SEED", "0")) if self._seed is None else self._seed

    @property
    def experiences(self) -> list[Experience]:
        """All events of the stream in order."""
        return self._divided().experiences

    @property
    def evaluated(self) -> list[int]:
        """The experiences that `test_dataloader` has loaders for, as indices: columns of the accuracy matrix."""
        last = len(self.experiences) if self.evaluate == "all" else self.current + 1
        return [experience.index for experience in self.experiences[:last] if experience.kind == "learn"]

    def setup(self, stage: str | None = None) -> None:
        """Load the data and divide it, once, whatever the stage.

        Raises:
            ConfigError: if the scenario or a request to forget does not fit the data.
            DataError: if the data is missing or damaged, or processes do not find the same.
        """
        self._divided()
        # Whoever set up one process before there was a Trainer did not take part in the agreement yet.
        if self.trainer is not None and self.trainer.world_size > 1 and not self._agreed:
            self._agreed = True
            refuse_disagreement(self.trainer, self.manifest())

    def begin(self, index: int) -> None:
        """Make an experience the current one. Where it asks to forget, the replay memory forgets at once.

        Raises:
            ConfigError: if the stream has no such experience.
        """
        if not 0 <= index < len(self.experiences):
            raise ConfigError(
                f"The stream has the experiences 0 to {len(self.experiences) - 1}, but {index} is asked for."
            )
        self.current = index
        event = self.experiences[index]
        if event.kind == "forget" and self.replay is not None:
            self.replay.forget(positions=event.train)

    def consolidate(self, features: Features | None = None) -> None:
        """Put records of the current experience into the replay memory; called once when it is learned.

        Args:
            features: returns float ``(n, d)`` features of training records; None if the memory needs none.
        """
        event = self.experiences[self.current]
        if self.replay is None or event.kind == "forget":
            return
        self.replay.update(
            event,
            labels=self.train_source.labels[event.train],
            image=self.train_source.image,
            features=features,
            seed=self.seed,
        )

    def train_dataloader(self) -> StreamLoader:
        """Return augmented batches of the current training set, with replayed images after the others in each batch.

        A request to forget trains on the records to forget, or, with ``training_set="seen"``, on all others.
        """
        batches = ExperienceBatches(
            self._trained("train"),
            self.batch_size,
            self._share(),
            seed=self.seed,
            experience=self.current,
            replay_size=len(self.replay) if self.replay is not None else 0,
            replay_batch_size=self.replay_batch_size,
        )
        records = TrainingRecords(
            self.train_source,
            self.preprocessing,
            self._divided().origin,
            seed=self.seed,
            experience=self.current,
            memory=self.replay,
        )
        trainer = self.trainer
        progress = None if trainer is None else lambda: progress_of(trainer)
        return StreamLoader(records, batches, num_workers=self.num_workers, progress=progress)

    def val_dataloader(self) -> StreamLoader | list[Any]:
        """Return the held-out records that belong to the current training set; an empty list if there are none."""
        held = self._trained("val")
        return self._evaluation(self.train_source, held, self._divided().origin[held]) if len(held) else []

    def test_dataloader(self) -> list[StreamLoader]:
        """Return one loader for each experience of `evaluated`."""
        events = [self.experiences[index] for index in self.evaluated]
        return [self._evaluation(self.test_source, e.test, np.full(len(e.test), e.index)) for e in events]

    def predict_dataloader(self) -> list[DataLoader[ImageBatch]]:
        """Return a loader for each experience of `evaluated`."""
        # Plain ones: to predict, Lightning makes every loader anew from the arguments that it knows of.
        loaders = self.test_dataloader()
        return [DataLoader(loader.dataset, sampler=loader.sampler, batch_size=None) for loader in loaders]

    def in_order_loader(self, positions: Sequence[int] | Positions) -> StreamLoader:
        """Return training records as evaluation sees them, in the order given, all of them on every process.

        Args:
            positions: of the training records.
        """
        origin, chosen = self._divided().origin, np.asarray(positions, dtype=np.int64)
        records = PlainRecords(self.train_source, self.preprocessing, chosen, origin[chosen])
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
                settings=dict(self.identity()),
                experiences=division.entries(self.train_source.names, self.test_source.names),
            )
        return self._manifest

    def training_settings(self) -> dict[str, Any]:
        """Return what decides, beside the split, which batches training sees; plain values."""
        return {
            "batch_size": self.batch_size,
            "replay_batch_size": self.replay_batch_size,
            "training_set": self.training_set,
            "online": self.online,
            # Of anything but a dataclass the text would hold its address.
            "preprocessing": repr(self.preprocessing) if is_dataclass(self.preprocessing) else None,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream stands, what the replay memory holds, and which stream it is."""
        memory = None if self.replay is None else self.replay.state_dict()
        return {"current": self.current, "memory": memory, "manifest": self.manifest().as_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            DataError: if it was taken from another stream.
            ConfigError: if one of the two has a replay memory and the other has none.
        """
        refuse_another_run(state_dict, self.manifest(), self.replay)
        if self.replay is not None:
            self.replay.load_state_dict(state_dict["memory"])
        self.current = int(state_dict["current"])

    def _divided(self) -> Division:
        if self._division is None:
            self._seed = self.seed  # from now on it stays
            self.prepare_sources()
            self._division = divide(
                self.train_source,
                self.test_source,
                self.class_names,
                scenario=self.scenario,
                forget=self.forget,
                val_fraction=self.val_fraction,
                seed=self.seed,
            )
        return self._division

    def _trained(self, part: Literal["train", "val"]) -> Positions:
        return self._divided().records(self.current, part, seen=self.training_set == "seen")

    def _evaluation(self, source: ImageSource, positions: Positions, experiences: Positions) -> StreamLoader:
        records = PlainRecords(source, self.preprocessing, positions, experiences)
        batches = EvaluationBatches(records, self.eval_batch_size, self._share())
        return StreamLoader(records, batches, num_workers=self.num_workers)

    def _share(self) -> Share:
        return Share() if self.trainer is None else Share(self.trainer.global_rank, self.trainer.world_size)

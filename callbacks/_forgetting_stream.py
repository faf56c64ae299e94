"""Which row and which columns of the matrix an evaluation measures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import lightning.pytorch as pl

from pvision.continual.experience import Experience
from pvision.errors import ConfigError
from pvision.training.streams.consolidation import Consolidation
from pvision.training.trainer_parts import callbacks_of

__all__ = ["IsStream", "Place", "learning_stream", "place_in_stream", "refuse_spent_trainer", "stream_of"]


@runtime_checkable
class IsStream(Protocol):
    """A data module that goes through a stream, as `pvision.datamodules` has them."""

    @property
    def experiences(self) -> Sequence[Experience]:
        """All events of the stream."""

    @property
    def current(self) -> int:
        """The index of the event that is trained now, or was last."""

    @property
    def evaluated(self) -> Sequence[int]:
        """The indices of the experiences whose test sets the loaders hold, in the order of the loaders."""


@dataclass(frozen=True)
class Place:
    """Where an evaluation stands.

    Attributes:
        row: after which learned experience, from 0; -1 for a model that was not trained yet.
        columns: whose test sets are measured: numbers of learned experiences, one per loader.
        names: of the learned experiences, as far as they are known.
        classes: of each learned experience, where a stream knows them.
        forgotten: columns all of whose classes have been forgotten on request by now.
        forgotten_classes: all classes that have been forgotten on request by now.
        event: the request to forget that this evaluation follows; None after learning.
    """

    row: int
    columns: tuple[int, ...]
    names: tuple[str, ...] = ()
    classes: tuple[tuple[int, ...], ...] = ()
    forgotten: tuple[int, ...] = ()
    forgotten_classes: tuple[int, ...] = ()
    event: Experience | None = None


def stream_of(trainer: pl.Trainer) -> IsStream | None:
    """Return the Trainer's data module if it goes through a stream."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, IsStream) else None


def refuse_spent_trainer(trainer: pl.Trainer) -> None:
    """Refuse a fit that could not train because its Trainer had come to its end before: it is no experience.

    Raises:
        ConfigError: unless the Trainer was told not to train, or a stream says which experience this is.
    """
    meant_to = trainer.max_epochs and trainer.limit_train_batches and trainer.num_training_batches
    if meant_to and stream_of(trainer) is None:
        raise ConfigError(
            "This fit trained nothing, because its Trainer had reached its max_epochs or max_steps before, so it is no "
            "further experience. Make a new Trainer for each experience, and give it the same ForgettingMetrics."
        )


def learning_stream(trainer: pl.Trainer) -> bool:
    """Return whether `fit_stream` is at work, which evaluates what is learned only, by a fit or without one."""
    return any(isinstance(callback, Consolidation) for callback in callbacks_of(trainer))


def place_in_stream(stream: IsStream, *, loaders: int | None, untrained: bool) -> Place:
    """Return where an evaluation of ``stream`` stands.

    Args:
        stream: the data module.
        loaders: how many loaders are evaluated; None if one evaluation gives the values of all learned experiences.
        untrained: whether no fit has ended yet.

    Raises:
        ConfigError: if there is not one loader for each experience evaluated.
    """
    done = stream.experiences[: stream.current + 1]
    learned = [experience for experience in stream.experiences if experience.kind == "learn"]
    number = {experience.index: place for place, experience in enumerate(learned)}
    gone = _forgotten_classes(done)
    row = sum(experience.kind == "learn" for experience in done) - 1
    columns = tuple(range(len(learned)))
    if loaders is not None:
        columns = tuple(number[index] for index in stream.evaluated)
        if loaders != len(columns):
            raise ConfigError(
                f"ForgettingMetrics needs one loader for each of the {len(columns)} experiences in data.evaluated, but "
                f"{loaders} came. Leave out stage='validation': the test loaders of a stream are one per experience."
            )
    return Place(
        row=-1 if untrained and row <= 0 else row,
        columns=columns,
        names=tuple(experience.name for experience in learned),
        classes=tuple(tuple(experience.classes) for experience in learned),
        forgotten=tuple(
            column
            for column, experience in enumerate(learned)
            if experience.index < len(done) and experience.classes and set(experience.classes) <= gone
        ),
        forgotten_classes=tuple(sorted(gone)),
        event=done[-1] if done and done[-1].kind == "forget" else None,
    )


def _forgotten_classes(done: Sequence[Experience]) -> set[int]:
    """Return the classes that were forgotten, and not learned again since."""
    gone: set[int] = set()
    for experience in done:
        gone = gone | set(experience.classes) if experience.kind == "forget" else gone - set(experience.classes)
    return gone

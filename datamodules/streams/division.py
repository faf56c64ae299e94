"""A data set divided into the events of a stream: all that a stream knows before a single pixel is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pvision.continual.experience import Experience, Positions
from pvision.continual.manifest import ExperienceEntry
from pvision.continual.scenarios import ForgetRequest, Scenario, StreamLabels, hold_out, insert_forgetting
from pvision.datamodules.streams.sources import ImageSource
from pvision.errors import ConfigError, DataError

__all__ = ["Division", "divide"]


@dataclass(frozen=True, eq=False)
class Division:
    """The events of a stream.

    Attributes:
        experiences: all events in order.
        origin: int64 ``(N,)``, the index of the experience that each training record belongs to; -1 if to none.
    """

    experiences: list[Experience]
    origin: Positions

    def records(self, current: int, part: Literal["train", "val"], *, seen: bool) -> Positions:
        """Return the training records of an event, or the held-out ones, as positions in the training set.

        Args:
            current: the index of the event.
            part: which of its records.
            seen: all that was learned up to this event and not forgotten, in the order of the data set, instead.
        """
        if not seen:
            chosen: Positions = getattr(self.experiences[current], part)
            return chosen
        taken = np.zeros(len(self.origin), dtype=bool)
        for event in self.experiences[: current + 1]:
            taken[getattr(event, part)] = event.kind == "learn"
        return np.flatnonzero(taken)

    def entries(self, train_names: Sequence[str], test_names: Sequence[str]) -> tuple[ExperienceEntry, ...]:
        """Return what a manifest says of the events."""
        return tuple(ExperienceEntry.of(event, train_names, test_names) for event in self.experiences)


def divide(
    train: ImageSource,
    test: ImageSource,
    class_names: Sequence[str],
    *,
    scenario: Scenario,
    forget: Sequence[ForgetRequest],
    val_fraction: float,
    seed: int,
) -> Division:
    """Divide a data set.

    Args:
        train: the training set.
        test: the test set.
        class_names: the names of the classes, in label order.
        scenario: makes the experiences to learn.
        forget: requests, which become events.
        val_fraction: part of each class of each experience that is held out for validation.
        seed: draws the records that are held out.

    Raises:
        ConfigError: if the scenario, a request to forget or ``val_fraction`` does not fit the data set.
        DataError: if labels, domains or names of the data set contradict each other.
    """
    for kind, source in (("training", train), ("test", test)):
        _refuse_repeated_names(kind, source.names)
    labels = StreamLabels(
        train=train.labels,
        test=test.labels,
        num_classes=len(class_names),
        train_domains=train.domains,
        test_domains=test.domains,
        class_names=class_names,
    )
    learned = hold_out(scenario.experiences(labels), labels.train, fraction=val_fraction, seed=seed)
    empty = [experience.name for experience in learned if val_fraction and not len(experience.val)]
    if empty:
        raise ConfigError(
            f"data.val_fraction {val_fraction:g} holds no record out of experience {empty[0]!r}, whose classes are "
            "small. Raise it, or set it to 0."
        )
    events = insert_forgetting(learned, forget, labels.train, train.names)
    origin = np.full(len(train), -1, dtype=np.int64)
    for event in events:
        if event.kind == "learn":
            origin[event.train] = origin[event.val] = event.index
    return Division(events, origin)


def _refuse_repeated_names(kind: str, names: Sequence[str]) -> None:
    if len(set(names)) == len(names):
        return
    known: set[str] = set()
    for name in names:
        if name in known:
            raise DataError(f"Two {kind} records are called {name!r}. Each needs a name of its own.")
        known.add(name)

"""What all scenarios share: a list of parts is checked and becomes a list of experiences."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pvision.checks import positive_int
from pvision.continual.experience import Experience, Positions
from pvision.continual.scenarios.labels import StreamLabels, shown
from pvision.errors import ConfigError, DataError

__all__ = ["Part", "Scenario", "checked_seed"]


@dataclass(frozen=True, eq=False)
class Part:
    """The records of one experience, as a scenario chooses them.

    Attributes:
        name: what people call the experience.
        classes: the labels that occur in ``train``, in the order of the stream.
        train: positions of its training records.
        test: positions of its test records.
        domain: the domain of all its records, where the stream goes through domains.
    """

    name: str
    classes: tuple[int, ...]
    train: Positions
    test: Positions
    domain: str | None = None


class Scenario(ABC):
    """Divides a labelled data set into experiences. A new scenario implements `parts` and `settings`.

    Attributes:
        task_aware: whether the evaluation may use which experience a test record belongs to.
        evaluates: the experiences on which a stream of this kind is tested after each one: those ``seen`` so far, or
            ``all``, the later ones too.
        repeats_classes: whether a class may come in several experiences.
    """

    task_aware: bool = False
    evaluates: Literal["seen", "all"] = "seen"
    repeats_classes: bool = False

    @abstractmethod
    def parts(self, labels: StreamLabels) -> Sequence[Part]:
        """Return what each experience consists of, in the order of the stream."""

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """Return the constructor's arguments as plain values that JSON can write."""

    def experiences(self, labels: StreamLabels) -> list[Experience]:
        """Return the experiences of the stream, all of them to learn.

        Raises:
            ConfigError: if the settings do not fit the data set.
            DataError: if an experience is empty, a record comes twice, a class comes twice where it may not, or a
                class never comes.
        """
        parts = list(self.parts(labels))
        _refuse_empty(parts)
        _refuse_repetition(parts)
        experiences: list[Experience] = []
        seen: set[int] = set()
        for index, part in enumerate(parts):
            _refuse_wrong_classes(part, labels)
            again = [label for label in part.classes if label in seen]
            if again and not self.repeats_classes:
                raise DataError(
                    f"{type(self).__name__}: the classes {shown(again)} of experience {part.name!r} came before. Each "
                    "class may come in one experience only."
                )
            new = tuple(label for label in part.classes if label not in seen)
            seen.update(new)
            experiences.append(
                Experience(index, "learn", part.name, part.classes, new, part.train, test=part.test, domain=part.domain)
            )
        gap = sorted(set(range(labels.num_classes)) - seen)
        if gap:
            raise DataError(f"{type(self).__name__}: the classes {shown(gap)} come in no experience.")
        return experiences

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings().items())
        return f"{type(self).__name__}({settings})"


def checked_seed(name: str, seed: int) -> int:
    """Return ``seed`` if `numpy.random.RandomState` takes it: 0 to 2**32 - 1."""
    if positive_int(name, seed, low=0) >= 2**32:
        raise ConfigError(f"{name} must be below 2**32, but {seed} came.")
    return seed


def _refuse_empty(parts: Sequence[Part]) -> None:
    if not parts:
        raise ConfigError("The scenario makes no experience. Give it at least one.")
    for part in parts:
        for kind, positions in (("training", part.train), ("test", part.test)):
            if not len(positions):
                raise DataError(
                    f"Experience {part.name!r} has no {kind} records. Use fewer experiences, or add records."
                )
    names = [part.name for part in parts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"The experiences {shown(twice)} come twice. Each experience needs a name of its own.")


def _refuse_repetition(parts: Sequence[Part]) -> None:
    for kind in ("train", "test"):
        positions, counts = np.unique(np.concatenate([getattr(part, kind) for part in parts]), return_counts=True)
        twice = positions[counts > 1].tolist()
        if twice:
            raise DataError(f"The {kind} records at {shown(twice)} come twice in the stream. Each may come once.")


def _refuse_wrong_classes(part: Part, labels: StreamLabels) -> None:
    found = set(np.unique(labels.train[part.train]).tolist())
    if found != set(part.classes) or len(part.classes) != len(found):
        raise DataError(
            f"Experience {part.name!r} announces the classes {shown(part.classes)}, but its training records have "
            f"{shown(sorted(found))}."
        )

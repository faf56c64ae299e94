"""Requests to forget, as events of a stream."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pvision.checks import positive_int
from pvision.continual.experience import Experience, Positions
from pvision.continual.scenarios.labels import shown
from pvision.errors import ConfigError

__all__ = ["ForgetRequest", "insert_forgetting"]


@dataclass(frozen=True)
class ForgetRequest:
    """A request to forget classes, single records, or both.

    Args:
        after: the number, from 0, of the experience to learn after which the request comes.
        classes: labels of which every record learned so far is forgotten.
        records: names of records to forget, as the data set names them.

    Raises:
        ConfigError: if nothing is asked for, or an argument is out of range.
    """

    after: int
    classes: Sequence[int] = ()
    records: Sequence[str] = ()

    def __post_init__(self) -> None:
        positive_int("forget.after", self.after, low=0)
        for label in self.classes:
            positive_int("forget.classes", label, low=0)
        if isinstance(self.records, str):
            raise ConfigError(f"forget.records must be a list of names, but the text {self.records!r} came.")
        if not len(self.classes) + len(self.records):
            raise ConfigError(f"The request to forget after experience {self.after} names no classes and no records.")


def insert_forgetting(
    experiences: Sequence[Experience], requests: Sequence[ForgetRequest], labels: Positions, names: Sequence[str]
) -> list[Experience]:
    """Return the events of a stream: experiences to learn, and after them what is to be forgotten.

    An event's ``classes`` are the classes asked for as a whole; its ``train`` are all records to forget, its ``val``
    those of them that were held out for validation. What was forgotten may be learned anew by a later experience that
    brings other records of the class.

    Args:
        experiences: to learn, numbered from 0.
        requests: in any order; those after the same experience come in the order given.
        labels: int64 ``(N,)``, of all training records.
        names: of all training records.

    Raises:
        ConfigError: if a request names an experience, a class or a record that does not exist, is not learned by then,
            or is forgotten already.
    """
    late = [request.after for request in requests if request.after >= len(experiences)]
    if late:
        raise ConfigError(
            f"A request to forget comes after experience {late[0]}, but the stream has the experiences 0 to "
            f"{len(experiences) - 1}."
        )
    wanted = {name for request in requests for name in request.records}
    places = {name: place for place, name in enumerate(names) if name in wanted}
    known = _Known(labels, places)
    events: list[Experience] = []
    for number, experience in enumerate(experiences):
        events.append(replace(experience, index=len(events)))
        known.learn(experience)
        events += [known.forget(request, len(events) + k) for k, request in enumerate(_after(requests, number))]
    return events


def _after(requests: Sequence[ForgetRequest], number: int) -> list[ForgetRequest]:
    return [request for request in requests if request.after == number]


class _Known:
    """What has been learned and not been forgotten at a place of the stream."""

    def __init__(self, labels: Positions, places: dict[str, int]) -> None:
        self._labels, self._places = labels, places
        self._learned, self._held = np.zeros(len(labels), dtype=bool), np.zeros(len(labels), dtype=bool)

    def learn(self, experience: Experience) -> None:
        self._learned[experience.train] = True
        self._held[experience.val] = True

    def forget(self, request: ForgetRequest, index: int) -> Experience:
        chosen = np.zeros(len(self._labels), dtype=bool)
        for label in request.classes:
            of_class = self._labels == label
            if not (of_class & self._learned).any():
                raise ConfigError(
                    f"forget.classes names class {label}, of which nothing is learned, or all forgotten, after "
                    f"experience {request.after}. Ask for it later, or leave it out."
                )
            chosen |= of_class
        chosen[self._positions(request)] = True
        event = Experience(
            index,
            "forget",
            _title(request),
            tuple(dict.fromkeys(request.classes)),
            train=np.flatnonzero(chosen & self._learned),
            val=np.flatnonzero(chosen & self._held),
        )
        self._learned &= ~chosen
        self._held &= ~chosen
        return event

    def _positions(self, request: ForgetRequest) -> list[int]:
        unknown = [name for name in request.records if name not in self._places]
        if unknown:
            raise ConfigError(f"forget.records names {shown(unknown)}, which the training set does not have.")
        positions = [self._places[name] for name in request.records]
        for name, position in zip(request.records, positions, strict=True):
            if not self._learned[position]:
                why = "was held out for validation" if self._held[position] else "is not learned, or forgotten already,"
                raise ConfigError(
                    f"forget.records names {name!r}, which {why} after experience {request.after}. Leave it out."
                )
        return positions


def _title(request: ForgetRequest) -> str:
    classes = [f"class{'es' if len(request.classes) > 1 else ''} {shown(request.classes)}"] if request.classes else []
    records = [f"{len(request.records)} records"] if request.records else []
    return "forget " + " and ".join(classes + records)

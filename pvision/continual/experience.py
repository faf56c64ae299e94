"""What a stream consists of: experiences, and the batches that come out of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["Experience", "ImageBatch", "Positions", "seen_classes"]

Positions = npt.NDArray[np.int64]


def _none() -> Positions:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Experience:
    """One event of a stream: something to learn, or something to forget.

    Attributes:
        index: its place among all events of the stream, from 0.
        kind: ``learn``, or ``forget`` for a request to forget records that were learned before.
        name: what people call it.
        classes: the labels that occur in its training records, in the order of the stream; those to forget.
        new_classes: those of ``classes`` that occur in no earlier experience.
        train: positions of its training records in the data set; of a ``forget`` event, of the records to forget.
        val: positions, among the training records, of those held out for validation.
        test: positions of its test records in the test set; none for a ``forget`` event.
        domain: the domain that its records come from, where the stream goes through domains.
    """

    index: int
    kind: Literal["learn", "forget"]
    name: str
    classes: tuple[int, ...]
    new_classes: tuple[int, ...] = ()
    train: Positions = field(default_factory=_none, repr=False)
    val: Positions = field(default_factory=_none, repr=False)
    test: Positions = field(default_factory=_none, repr=False)
    domain: str | None = None


class ImageBatch(NamedTuple):
    """A batch of labelled images.

    Attributes:
        image: float ``(B, C, H, W)``, normalised as the stream's protocol says.
        label: int64 ``(B,)``, as the data set numbers its classes.
        experience: int64 ``(B,)``, the index of the experience that each image came from.
        position: int64 ``(B,)``, of each image in its data set; -1 for a replayed one.
    """

    image: Tensor
    label: Tensor
    experience: Tensor
    position: Tensor


def seen_classes(experiences: Iterable[Experience]) -> tuple[int, ...]:
    """Return the classes of ``learn`` experiences in the order of their first appearance."""
    learned = (experience.classes for experience in experiences if experience.kind == "learn")
    return tuple(dict.fromkeys(label for classes in learned for label in classes))

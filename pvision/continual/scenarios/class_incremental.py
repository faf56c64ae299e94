"""Streams in which each experience brings classes of its own.

[0] van de Ven, Tuytelaars, Tolias, Three types of incremental learning, Nature Machine Intelligence 2022.
[1] Rebuffi, Kolesnikov, Sperl, Lampert, iCaRL, CVPR 2017, arXiv:1611.07725: class orders drawn by seed 1993.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pvision.checks import positive_int
from pvision.continual.scenarios.labels import StreamLabels, shown
from pvision.continual.scenarios.scenario import Part, Scenario, checked_seed
from pvision.errors import ConfigError

__all__ = ["ClassIncremental", "TaskIncremental", "class_order_of"]


class ClassIncremental(Scenario):
    """Each experience brings new classes; evaluation is over all classes seen so far, without a hint [0].

    Give ``experiences``, optionally with ``base_classes``, or ``increments``. Where the classes cannot be divided
    equally, the first experiences have one more.

    Args:
        experiences: how many there are.
        base_classes: classes of the first experience; the others share the rest equally.
        increments: how many classes each experience brings.
        class_order: the labels in the order in which they come; None for the order of ``class_order_seed``.
        class_order_seed: draws the order as ``numpy.random.RandomState(seed).permutation(num_classes)``, which is the
            order of the field's code that calls ``numpy.random.seed(1993)`` [1]; None for the order of the labels.

    Raises:
        ConfigError: if arguments contradict each other or are out of range.
    """

    def __init__(
        self,
        *,
        experiences: int | None = None,
        base_classes: int | None = None,
        increments: Sequence[int] | None = None,
        class_order: Sequence[int] | None = None,
        class_order_seed: int | None = None,
    ) -> None:
        name = type(self).__name__
        if (experiences is None) == (increments is None):
            raise ConfigError(
                f"{name} needs either experiences (how many) or increments (classes of each), but "
                f"{'neither' if experiences is None else 'both'} came."
            )
        if increments is not None and base_classes is not None:
            raise ConfigError(f"{name}: base_classes goes with experiences. With increments, put it first in the list.")
        self.experience_count = _optional(f"{name}.experiences", experiences)
        self.base_classes = _optional(f"{name}.base_classes", base_classes)
        self.increments = None if increments is None else [positive_int(f"{name}.increments", n) for n in increments]
        self.class_order, self.class_order_seed = checked_order(name, class_order, class_order_seed)

    def parts(self, labels: StreamLabels) -> list[Part]:
        """Return the records of each experience's classes, in the order of the data set."""
        order = class_order_of(labels.num_classes, self.class_order, self.class_order_seed)
        ends = np.cumsum([0, *self.sizes(labels.num_classes)]).tolist()
        return [
            Part(
                name=labels.named(order[start:end]),
                classes=tuple(order[start:end]),
                train=np.flatnonzero(np.isin(labels.train, order[start:end])),
                test=np.flatnonzero(np.isin(labels.test, order[start:end])),
            )
            for start, end in pairwise(ends)
        ]

    def sizes(self, num_classes: int) -> list[int]:
        """Return how many classes each experience brings.

        Raises:
            ConfigError: if the settings do not fit the number of classes.
        """
        name = type(self).__name__
        if self.increments is not None:
            if sum(self.increments) != num_classes:
                raise ConfigError(
                    f"{name}.increments {shown(self.increments)} are {sum(self.increments)} classes together, but the "
                    f"data set has {num_classes}. Make them equal."
                )
            return self.increments
        count, base = self.experience_count or 0, self.base_classes
        if base is None:
            return _equal_parts(name, num_classes, count)
        if count == 1 and base != num_classes:
            raise ConfigError(
                f"{name}: one experience has all {num_classes} classes, but base_classes is {base}. Leave it out."
            )
        if base > num_classes:
            raise ConfigError(f"{name}.base_classes is {base}, but the data set has {num_classes} classes. Lower it.")
        return [base] if count == 1 else [base, *_equal_parts(name, num_classes - base, count - 1)]

    def settings(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return {
            "experiences": self.experience_count,
            "base_classes": self.base_classes,
            "increments": self.increments,
            "class_order": self.class_order,
            "class_order_seed": self.class_order_seed,
        }


class TaskIncremental(ClassIncremental):
    """The experiences of `ClassIncremental`; evaluation is told from which experience a record comes [0].

    Args:
        experiences: how many there are.
        base_classes: classes of the first experience.
        increments: how many classes each experience brings.
        class_order: the labels in the order in which they come.
        class_order_seed: draws the order.
    """

    task_aware = True


def class_order_of(num_classes: int, order: Sequence[int] | None, seed: int | None) -> list[int]:
    """Return the labels in the order in which they come.

    Example:
        >>> class_order_of(100, None, 1993)[:10]
        [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]

    Raises:
        ConfigError: if ``order`` is no permutation of the labels.
    """
    if order is None:
        # RandomState, unlike numpy's newer generators, is frozen: the order is the same in every version.
        return (
            list(range(num_classes)) if seed is None else np.random.RandomState(seed).permutation(num_classes).tolist()
        )
    twice = sorted({label for label in order if list(order).count(label) > 1})
    if twice:
        raise ConfigError(f"class_order names the classes {shown(twice)} twice. Each of the {num_classes} comes once.")
    unknown = sorted(set(order) - set(range(num_classes)))
    if unknown:
        raise ConfigError(f"class_order names {shown(unknown)}, but the labels run from 0 to {num_classes - 1}.")
    missing = sorted(set(range(num_classes)) - set(order))
    if missing:
        raise ConfigError(f"class_order leaves out the classes {shown(missing)}. It must name all {num_classes}.")
    return list(order)


def checked_order(name: str, order: Sequence[int] | None, seed: int | None) -> tuple[list[int] | None, int | None]:
    """Return the two ways to give a class order, of which one at most is set.

    Raises:
        ConfigError: if both are set, or one is out of range.
    """
    if order is not None and seed is not None:
        raise ConfigError(f"{name} takes class_order or class_order_seed, but both came. Leave one out.")
    if seed is not None:
        checked_seed(f"{name}.class_order_seed", seed)
    labels = None if order is None else [positive_int(f"{name}.class_order", label, low=0) for label in order]
    return labels, seed


def _equal_parts(name: str, classes: int, count: int) -> list[int]:
    if count > classes:
        raise ConfigError(
            f"{name}: {count} experiences cannot share {classes} classes, because each needs one at least. Lower "
            "experiences."
        )
    return [classes // count + (place < classes % count) for place in range(count)]


def _optional(name: str, value: int | None) -> int | None:
    return None if value is None else positive_int(name, value)

"""Which classes come in which experience of segmentation: the field's task names and class orders.

Labels of classes count from 1, because 0 is the background.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pvision.checks import positive_int
from pvision.continual.masks import BACKGROUND, VOID
from pvision.continual.scenarios.class_incremental import class_order_of
from pvision.continual.scenarios.labels import shown
from pvision.errors import ConfigError

__all__ = ["OFFLINE", "checked_task", "class_groups", "order_of_labels", "sizes_of_task"]

OFFLINE = "offline"
"""The task with all classes at once: the upper bound."""

_TASK = re.compile(r"([1-9][0-9]{0,2})-([1-9][0-9]{0,2})")


def checked_task(name: str, task: str) -> str:
    """Return the name of a task if it can be one: ``"BASE-STEP"`` or ``"offline"``.

    Raises:
        ConfigError: if it cannot.
    """
    if isinstance(task, str) and (task == OFFLINE or _TASK.fullmatch(task)):
        return task
    raise ConfigError(
        f"{name} must be {OFFLINE!r} or the classes of the first and of each later experience, as '15-1', but "
        f"{task!r} came."
    )


def sizes_of_task(task: str, num_classes: int) -> list[int]:
    """Return how many classes each experience of a task brings.

    Args:
        task: as `checked_task` returns it.
        num_classes: how many classes the data set has, without the background.

    Raises:
        ConfigError: if the steps do not end with the last class.

    Example:
        >>> sizes_of_task("15-1", 20), sizes_of_task("100-50", 150)
        ([15, 1, 1, 1, 1, 1], [100, 50])
    """
    if task == OFFLINE:
        return [num_classes]
    base, step = (int(part) for part in task.split("-"))
    if base >= num_classes:
        raise ConfigError(
            f"The task {task!r} begins with {base} classes and goes on, but the data set has {num_classes}. Lower the "
            f"first number, or take the task {OFFLINE!r}."
        )
    steps, rest = divmod(num_classes - base, step)
    if rest:
        raise ConfigError(
            f"The task {task!r} leaves {rest} of {num_classes} classes over after {steps} steps. Take numbers that "
            "come out even, or say with increments how many classes each experience brings."
        )
    return [base, *[step] * steps]


def class_groups(order: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Cut a class order into the classes of each experience.

    Args:
        order: all labels, as `order_of_labels` returns them.
        sizes: how many of them each experience brings.

    Raises:
        ConfigError: if the sizes do not add up to the number of classes.
    """
    if sum(sizes) != len(order):
        raise ConfigError(
            f"The increments {shown(sizes)} are {sum(sizes)} classes together, but the data set has {len(order)}. Make "
            "them equal; the background is not counted."
        )
    ends = np.cumsum([0, *sizes]).tolist()
    return [tuple(order[start:end]) for start, end in pairwise(ends)]


def order_of_labels(num_classes: int, order: Sequence[int] | None, seed: int | None) -> list[int]:
    """Return the labels 1 to ``num_classes`` in the order in which they come.

    Args:
        num_classes: how many classes there are, without the background; at most 254, because masks have 8 bits.
        order: the labels themselves; None for that of ``seed``.
        seed: draws them as `pvision.continual.scenarios.ClassIncremental` does; None for ascending order.

    Raises:
        ConfigError: if there are too many classes, or ``order`` is no permutation of the labels.

    Example:
        >>> order_of_labels(3, [2, 3, 1], None), order_of_labels(3, None, None)
        ([2, 3, 1], [1, 2, 3])
    """
    if positive_int("num_classes", num_classes) >= VOID:
        raise ConfigError(
            f"{num_classes} classes came, but a mask of 8 bits tells {VOID - 1} apart beside the background and "
            f"{VOID}. Merge classes, or leave some out."
        )
    if order is None:
        return [place + 1 for place in class_order_of(num_classes, None, seed)]
    if BACKGROUND in order:
        raise ConfigError(
            f"class_order holds {BACKGROUND}, which is the background and comes with every experience. List the labels "
            f"1 to {num_classes} only."
        )
    wrong = sorted(set(order) ^ set(range(1, num_classes + 1)))
    if wrong or len(order) != num_classes:
        twice = sorted({label for label in order if list(order).count(label) > 1})
        found = f"{shown(wrong)} are missing or unknown" if wrong else f"{shown(twice)} come twice"
        raise ConfigError(f"class_order must hold each label from 1 to {num_classes} once, but {found}.")
    return [int(label) for label in order]

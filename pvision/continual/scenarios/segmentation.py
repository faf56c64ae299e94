"""Streams of images with label masks, in which each experience shows the labels of classes of its own.

[0] Cermelli, Mancini, Rota Bulò, Ricci, Caputo, Modeling the Background for Incremental Learning in Semantic
    Segmentation, CVPR 2020, arXiv:2002.00718: overlapped and disjoint.
[1] Kwak, Cha, Moon, Towards Realistic Incremental Scenario in Class Incremental Semantic Segmentation, 2024,
    arXiv:2405.09858: partitioned.
[2] Douillard, Lesort, Continuum: Simple Management of Complex Continual Learning Scenarios, 2021, arXiv:2102.06253:
    sequential.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from pvision.checks import one_of, positive_int
from pvision.continual.experience import Experience, Positions
from pvision.continual.masks import BACKGROUND, VOID
from pvision.continual.scenarios.class_incremental import checked_order
from pvision.continual.scenarios.labels import shown
from pvision.continual.scenarios.scenario import checked_seed
from pvision.continual.scenarios.segmentation_tasks import checked_task, class_groups, order_of_labels, sizes_of_task
from pvision.errors import ConfigError, DataError

__all__ = ["Presence", "SegmentationScenario", "visible_table"]

Presence = npt.NDArray[np.bool_]
"""Which labels occur in each image: bool ``(N, 1 + classes)``, the background first."""

_SETTINGS = ("overlapped", "disjoint", "partitioned", "sequential")


class SegmentationScenario:
    """Divides images with label masks into experiences, each of which shows the labels of its own classes.

    All other classes, earlier and later ones, are background in the masks of an experience. Which images it has is the
    ``setting``:

    - ``"overlapped"``: all that contain one of its classes [0]. An image can come again later, with other labels.
    - ``"disjoint"``: those of them that contain no later class [0].
    - ``"partitioned"``: those that were assigned to one of its classes; each image is assigned at random to one of the
      classes that it contains, and so comes once [1].
    - ``"sequential"``: those of ``"overlapped"``, and the labels of earlier classes stay visible [2].

    Images that contain no class at all come in no experience. A class order says which classes come when and renames
    no label.

    Args:
        setting: which images an experience has.
        task: ``"15-1"`` begins with 15 classes and brings 1 in each later experience; ``"offline"`` has all at once.
            The steps must end with the last class.
        increments: how many classes each experience brings, in place of ``task``.
        class_order: the labels, from 1, in the order in which they come; None for the order of ``class_order_seed``.
        class_order_seed: draws the order by ``numpy.random.RandomState(seed).permutation``; None for ascending labels.
        void_as_background: train pixels of label 255 as background, as the code of [0] does on PASCAL VOC; they are
            left out of evaluation in any case.
        seed: draws the assignment of ``"partitioned"``, a function of the seed and an image's place in the data set.

    Raises:
        ConfigError: if arguments contradict each other or are out of range.

    Example:
        >>> SegmentationScenario(task="2-1", class_order=[3, 1, 2, 4]).groups(4)
        [(3, 1), (2,), (4,)]
    """

    def __init__(
        self,
        *,
        setting: Literal["overlapped", "disjoint", "partitioned", "sequential"] = "overlapped",
        task: str | None = None,
        increments: Sequence[int] | None = None,
        class_order: Sequence[int] | None = None,
        class_order_seed: int | None = None,
        void_as_background: bool = False,
        seed: int = 0,
    ) -> None:
        name = type(self).__name__
        if (task is None) == (increments is None):
            raise ConfigError(
                f"{name} needs either task (as '15-1') or increments (classes of each experience), but "
                f"{'neither' if task is None else 'both'} came."
            )
        self.setting = one_of(f"{name}.setting", setting, _SETTINGS)
        self.task = None if task is None else checked_task(f"{name}.task", task)
        self.increments = None if increments is None else [positive_int(f"{name}.increments", n) for n in increments]
        self.class_order, self.class_order_seed = checked_order(name, class_order, class_order_seed)
        self.void_as_background = bool(void_as_background)
        self.seed = checked_seed(f"{name}.seed", seed)

    def groups(self, num_classes: int) -> list[tuple[int, ...]]:
        """Return the classes that each experience brings, as labels.

        Args:
            num_classes: how many classes the data set has, without the background.

        Raises:
            ConfigError: if the settings do not fit the number of classes.
        """
        order = order_of_labels(num_classes, self.class_order, self.class_order_seed)
        sizes = self.increments if self.task is None else sizes_of_task(self.task, num_classes)
        return class_groups(order, sizes or [])

    def visible_labels(self, index: int, num_classes: int, *, seen: bool = False) -> tuple[int, ...]:
        """Return the labels of the classes that an experience's masks show, in the order of the stream.

        Args:
            index: of the experience.
            num_classes: how many classes the data set has.
            seen: show the classes of all experiences so far, which is joint training.
        """
        groups = self.groups(num_classes)
        if not (seen or self.setting == "sequential"):
            return groups[index]
        return tuple(label for group in groups[: index + 1] for label in group)

    def positions(self, presence: Presence) -> list[Positions]:
        """Return which images each experience has, as places in the data set in ascending order.

        Args:
            presence: of the training images.
        """
        groups = self.groups(presence.shape[1] - 1)
        if self.setting == "partitioned":
            home = _assigned(presence, self.seed)
            return [np.flatnonzero(np.isin(home, group)) for group in groups]
        chosen = [presence[:, list(group)].any(1) for group in groups]
        if self.setting == "disjoint":
            # By the order of the stream: the code of [0]'s successors compares label numbers, which is another rule
            # as soon as classes are permuted.
            later = [[label for group in groups[index + 1 :] for label in group] for index in range(len(groups))]
            chosen = [mine & ~presence[:, labels].any(1) for mine, labels in zip(chosen, later, strict=True)]
        return [np.flatnonzero(mine) for mine in chosen]

    def experiences(self, train: Presence, test: Presence, class_names: Sequence[str]) -> list[Experience]:
        """Return the experiences of a data set; ``test`` of each are the test images that contain one of its classes.

        Args:
            train: which labels occur in the training images.
            test: which labels occur in the test images.
            class_names: the names of the classes 1, 2, …

        Raises:
            ConfigError: if the settings do not fit the number of classes.
            DataError: if a class is in no training image of its experience.
        """
        made = []
        for index, (group, positions) in enumerate(
            zip(self.groups(len(class_names)), self.positions(train), strict=True)
        ):
            gone = [class_names[label - 1] for label in group if not train[positions, label].any()]
            if gone:
                raise DataError(
                    f"The classes {shown(gone)} are in no training image of experience {index} (setting "
                    f"{self.setting!r}), so that they could not be learned. Take another setting or class order, or "
                    "leave them out of class_names."
                )
            tested = np.flatnonzero(test[:, list(group)].any(1))
            made.append(Experience(index, "learn", _named(group, class_names), group, group, positions, test=tested))
        return made

    def settings(self) -> dict[str, object]:
        """Return the constructor's arguments as plain values that JSON can write."""
        return {
            "setting": self.setting,
            "task": self.task,
            "increments": self.increments,
            "class_order": self.class_order,
            "class_order_seed": self.class_order_seed,
            "void_as_background": self.void_as_background,
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings().items())
        return f"{type(self).__name__}({settings})"


def visible_table(labels: Sequence[int], *, void_as_background: bool = False) -> npt.NDArray[np.uint8]:
    """Return what each label becomes where only some are shown: uint8 ``(256,)``, to be indexed with a mask.

    Args:
        labels: the classes that stay. `VOID` stays too, all else becomes `BACKGROUND`.
        void_as_background: let `VOID` become `BACKGROUND` too.

    Example:
        >>> visible_table([2])[np.array([0, 1, 2, 3, 255])].tolist()
        [0, 0, 2, 0, 255]
    """
    table = np.full(256, BACKGROUND, dtype=np.uint8)
    kept = list(labels) if void_as_background else [*labels, VOID]
    table[kept] = kept
    return table


def _assigned(presence: Presence, seed: int) -> Positions:
    """Return the class that each image is assigned to: int64 ``(N,)``, 0 for images without a class."""
    # RandomState gives the same numbers in every version, and the first N of them whatever N is.
    drawn = np.random.RandomState(seed).random_sample(len(presence))
    classes = presence[:, 1:]
    place = (drawn * classes.sum(1)).astype(np.int64)
    # The first class at which one more is counted than the place drawn.
    home: Positions = np.argmax(classes.cumsum(1) > place[:, None], axis=1) + 1
    return np.where(classes.any(1), home, BACKGROUND)


def _named(group: Sequence[int], class_names: Sequence[str]) -> str:
    listed = ", ".join(class_names[label - 1] for label in group[:4])
    return f"{len(group)} classes: {listed}, …" if len(group) > 4 else listed
